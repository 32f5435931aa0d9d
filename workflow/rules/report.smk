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
        command=as_it_is(study_command()),
    shell:
        "python workflow/scripts/render_report.py --results {params.results:q}"
        " --models resources/models --command {params.command:q}"
        " --benchmarks logs/models {params.results:q}/benchmarks"
        " --out {output.page:q} --markdown {output.markdown:q} 2> {log:q}"


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
        config=as_it_is(argument(json.dumps(STUDY.record, ensure_ascii=False))),
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
        command=as_it_is(study_command()),
    shell:
        "(cd {params.folder:q}; mkdir -p tables frontier figures; cd -;"
        " cp {input.tables:q} {params.folder:q}/tables;"
        " cp {input.frontier:q} {params.folder:q}/frontier;"
        " cp {input.hero:q} {params.folder:q}/figures;"
        " python workflow/scripts/render_report.py --results {params.results:q}"
        " --models resources/models --command {params.command:q} --out {output.page:q}"
        " --benchmarks logs/models {params.results:q}/benchmarks"
        " --markdown {output.markdown:q} --copy-figures {params.folder:q}/figures) 2> {log:q}"
