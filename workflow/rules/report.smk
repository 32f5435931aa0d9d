# The HTML report and the Markdown, from files only: no model, no GPU, no network.


rule report:
    input:
        figures=figure_files(),
        stories=story_files(),
        runs=run_files(),
        tables=tables_below("completions", "scores", "tables", "frontier"),
        judges=[rules.judges.output[0]] if JUDGES else [],
        manifests=manifests(),
        seals=seals(
            *(f for f in figure_files() if not f.endswith(".png")),
            *story_files(),
            *run_files(),
            *tables_below("completions", "scores", "tables", "frontier"),
        ),
        benchmarks=benchmark_files(),
        config=f"{RESULTS}/{layout.CONFIG}",
        playground=f"{RESULTS}/{layout.PLAYGROUND}",
        templates=[
            shipped("workflow/report/report.html.j2"),
            shipped("workflow/report/parts.html.j2"),
            shipped("workflow/report/diagram.html.j2"),
            shipped("workflow/report/legend.html.j2"),
            shipped("workflow/report/method.html.j2"),
            shipped("workflow/report/results.md.j2"),
            shipped("workflow/report/report.css"),
            shipped("workflow/report/report.js"),
        ],
    output:
        page=report(
            f"{RESULTS}/{layout.PAGE}",
            category="Report",
            labels={"what": "the study in order, with every story"},
        ),
        markdown=f"{RESULTS}/{layout.MARKDOWN}",
    log:
        f"logs/{STUDY.name}/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="render_report"),
        results=subpath(output.page, parent=True),
        models=lambda wildcards, input: Path(input.manifests[0]).parents[1],
        command=as_it_is(study_command()),
    message:
        "Writing the report: {output.page}"
    shell:
        "run_script render_report --results {params.results:q}"
        " --models {params.models:q} --command {params.command:q}"
        " --out {output.page:q} --markdown {output.markdown:q} 2> {log:q}"


# One offline page that runs the base model and policies of the first variant and seed.
rule playground:
    input:
        base=rules.base_model.output,
        weights=rules.base_model.output.weights,
        policies=expand(
            f"{POLICY}/{layout.WEIGHTS.name}",
            variant=VARIANTS[0],
            factor=playground_factors(),
            seed=STUDY.seeds[0],
        ),
        files=expand(
            policy_files(POLICY),
            variant=VARIANTS[0],
            factor=playground_factors(),
            seed=STUDY.seeds[0],
        ),
        templates=[
            shipped("workflow/report/playground.html.j2"),
            shipped("workflow/report/playground.css"),
            shipped("workflow/report/playground.js"),
            shipped("workflow/report/playground_model.js"),
            shipped("workflow/report/report.css"),
        ],
    output:
        f"{RESULTS}/{layout.PLAYGROUND}",
    log:
        f"logs/{STUDY.name}/playground.log",
    benchmark:
        f"{RESULTS}/benchmarks/playground.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="make_playground"),
        folders=lambda wildcards, input: [str(Path(p).parent) for p in input.policies],
        base_model=subpath(input.weights, parent=True),
        study=STUDY.name,
        factors=playground_factors(),
        prompt=as_it_is(STUDY.training.prompts[0][:10_000]),  # one word of a command
    message:
        "Making the playground: {output}"
    shell:
        "run_script make_playground --study {params.study:q}"
        " --base-model {params.base_model:q}"
        " --kl-factors {params.factors} --policies {params.folders:q}"
        " --prompt={params.prompt:q} --out {output:q} 2> {log:q}"


# The study's settings, merged from config.yaml, --configfile and --config.
rule study_config:
    output:
        f"{RESULTS}/{layout.CONFIG}",
    log:
        f"logs/{STUDY.name}/study_config.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="write_config"),
        config=as_it_is(argument(json.dumps(STUDY.record, ensure_ascii=False))),
    message:
        "Recording the settings: {output}"
    shell:
        "run_script write_config --config {params.config:q}"
        " --out {output:q} 2> {log:q}"


# Publish a study: report, figures, tables and Markdown in docs/<study>-study; the ten-seed study's
# Markdown is docs/results.md. Not part of the default target.
rule publish:
    input:
        page=rules.report.output.page,
        figures=expand(
            f"{RESULTS}/{layout.FIGURE}.{{kind}}",
            name=FIGURE_NAMES,
            kind=["svg", "png"],
        ),
        hero=f"{RESULTS}/figures/frontier.svg",
        tables=[t for t in tables_below("tables") if "top_completions" not in t],
        frontier=tables_below("frontier"),
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
    message:
        "Publishing the study in {params.folder}"
    shell:
        "(cd {params.folder:q}; mkdir -p tables frontier figures; cd -;"
        " cp {input.tables:q} {params.folder:q}/tables;"
        " cp {input.frontier:q} {params.folder:q}/frontier;"
        " cp {input.hero:q} {params.folder:q}/figures;"
        " run_script render_report --results {params.results:q}"
        " --models resources/models --command {params.command:q} --out {output.page:q}"
        " --markdown {output.markdown:q} --copy-figures {params.folder:q}/figures"
        " --record-code {params.folder:q}/code.json) 2> {log:q}"
