# The page and the Markdown, from files alone: no model, no GPU, no network.


rule report:
    input:
        figures=figure_files(),
        stories=story_files(),
        runs=run_files(),
        tables=report_tables(),
        manifests=[
            f"{BASE_MODEL}/manifest.json",
            f"{REWARD_ENCODER}/manifest.json",
        ],
        config=f"{RESULTS}/config.yaml",
        playground=f"{RESULTS}/playground.html",
        templates=[
            "workflow/report/report.html.j2",
            "workflow/report/parts.html.j2",
            "workflow/report/legend.html.j2",
            "workflow/report/method.html.j2",
            "workflow/report/report.css",
            "workflow/report/report.js",
        ],
        code=code(script="render_report"),
    output:
        page=report(
            f"{RESULTS}/report.html",
            category="Report",
            labels={"what": "the study, told in order, with every story"},
        ),
        markdown=f"{RESULTS}/results.md",
    log:
        f"logs/{STUDY.name}/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        results=subpath(output.page, parent=True),
        command=study_command(),
    shell:
        "python workflow/scripts/render_report.py --results {params.results:q}"
        " --models resources/models --command {params.command:q}"
        " --benchmarks logs/models {params.results:q}/benchmarks"
        " --out {output.page:q} --markdown {output.markdown:q} 2> {log:q}"


# One offline page that runs the base model and policies of the first variant and seed.
rule playground:
    input:
        base=rules.base_model.output,
        weights=rules.base_model.output.weights,
        policies=expand(
            f"{POLICY}/model/model.safetensors",
            variant=STUDY.variants[0],
            factor=playground_factors(),
            seed=STUDY.seeds[0],
        ),
        templates=[
            "workflow/report/playground.html.j2",
            "workflow/report/playground.css",
            "workflow/report/playground.js",
            "workflow/report/playground_model.js",
            "workflow/report/report.css",
        ],
        code=code(script="make_playground"),
    output:
        f"{RESULTS}/playground.html",
    log:
        f"logs/{STUDY.name}/playground.log",
    benchmark:
        f"{RESULTS}/benchmarks/playground.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folders=lambda wildcards, input: [str(Path(p).parent) for p in input.policies],
        base_model=subpath(input.weights, parent=True),
        study=STUDY.name,
        factors=playground_factors(),
        prompt=config["training"]["prompt"],
    shell:
        "python workflow/scripts/make_playground.py --study {params.study:q}"
        " --base-model {params.base_model:q}"
        " --kl-factors {params.factors} --policies {params.folders:q}"
        " --prompt={params.prompt:q} --out {output:q} 2> {log:q}"


# What was run, as it was merged from config.yaml, --configfile and --config.
rule study_config:
    input:
        code=code(script="write_config"),
    output:
        f"{RESULTS}/config.yaml",
    log:
        f"logs/{STUDY.name}/study_config.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=json.dumps(
            {k: v for k, v in STUDY.resolved.items() if k != "pretrain"},
            ensure_ascii=False,
        ),
    shell:
        "python workflow/scripts/write_config.py --config {params.config:q}"
        " --out {output:q} 2> {log:q}"


# A study as the repository shows it: page, figures, tables and words in docs/<study>-study; the
# ten-seed study's words are docs/results.md. Outside the default target.
rule publish:
    input:
        page=rules.report.output.page,
        figures=expand(
            f"{RESULTS}/figures/{{name}}.{{kind}}",
            name=FIGURE_NAMES,
            kind=["svg", "png"],
        ),
        hero=f"{RESULTS}/figures/frontier.svg",
        tables=expand(
            f"{RESULTS}/tables/{{name}}.csv",
            name=[name for name in TABLES if name != "top_completions"],
        ),
        frontier=expand(
            f"{RESULTS}/frontier/{{name}}.csv",
            name=["limit", "best_of_n", "policies", "prompted"],
        ),
    output:
        page=f"docs/{STUDY.name}-study/report.html",
        markdown=(
            "docs/results.md"
            if STUDY.name == "ten-seed"
            else f"docs/{STUDY.name}-study/README.md"
        ),
    log:
        f"logs/{STUDY.name}/publish.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        results=subpath(input.page, parent=True),
        folder=subpath(output.page, parent=True),
        command=study_command(),
    shell:
        "(cd {params.folder:q}; mkdir -p tables frontier figures; cd -;"
        " cp {input.tables:q} {params.folder:q}/tables;"
        " cp {input.frontier:q} {params.folder:q}/frontier;"
        " cp {input.hero:q} {params.folder:q}/figures;"
        " python workflow/scripts/render_report.py --results {params.results:q}"
        " --models resources/models --command {params.command:q} --out {output.page:q}"
        " --benchmarks logs/models {params.results:q}/benchmarks"
        " --markdown {output.markdown:q} --copy-figures {params.folder:q}/figures) 2> {log:q}"
