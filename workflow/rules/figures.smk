# Figures from tables only: no model, no GPU, no torch. One rule for all figures; the tables and modules
# of a figure are in its entry of FIGURES in src/tinycats/figures/registry.py.


rule figure:
    input:
        tables=figure_tables,
        seals=lambda wildcards: seals(*figure_tables(wildcards)),
        published=shipped("workflow/resources/published_curves.csv"),
    output:
        svg=report(
            f"{RESULTS}/{layout.FIGURE}.svg",
            caption="../report/captions/figure.rst",
            category=figure_category,
            labels=figure_labels,
        ),
        png=f"{RESULTS}/{layout.FIGURE}.png",
        words=f"{RESULTS}/{layout.FIGURE}.json",
        seals=seals(*(f"{RESULTS}/{layout.FIGURE}.{kind}" for kind in ("svg", "json"))),
    log:
        f"logs/{STUDY.name}/{layout.FIGURE}.log",
    benchmark:
        f"{RESULTS}/{layout.BENCHMARKS}/{layout.FIGURE}.jsonl"
    wildcard_constraints:
        name="|".join(FIGURE_NAMES).replace(".", r"\."),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=figure_code,
        results=subpath(output.svg, ancestor=2),
        folder=subpath(output.svg, parent=True),
        module=figure_module,
        concept=as_it_is(STUDY.concept),
        words=as_it_is(STUDY.concept_words),
        reward=as_it_is(STUDY.reward_name),
        kl_factors=STUDY.factors,
        variant=VARIANTS[0],
        variants=VARIANTS,
        seed=STUDY.seeds[0],
        published=published_flag,
    message:
        "Drawing: {wildcards.name}"
    shell:
        "run_script draw_figure --name {wildcards.name:q}"
        " --results {params.results:q} --concept={params.concept:q}"
        " --concept-words {params.words:q} --reward={params.reward:q} --kl-factors {params.kl_factors}"
        " --variant {params.variant:q} --variants {params.variants:q} --seed {params.seed}"
        " {params.published:q} --out {params.folder:q} 2> {log:q}"


# The figures of one variant after the first, which the report shows when it is chosen: one job, since
# starting a program takes longer than drawing a figure.
if VARIANT_FIGURES:

    rule figures_of_variant:
        input:
            tables=variant_tables,
            seals=lambda wildcards: seals(*variant_tables(wildcards)),
            published=shipped("workflow/resources/published_curves.csv"),
        output:
            svg=figures_of("{variant}", "svg"),
            png=figures_of("{variant}", "png"),
            words=figures_of("{variant}", "json"),
            seals=seals(*figures_of("{variant}", "svg", "json")),
        log:
            f"logs/{STUDY.name}/figures/of={{variant}}.log",
        benchmark:
            f"{RESULTS}/{layout.BENCHMARKS}/figures/of={{variant}}.jsonl"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            code=variant_figures_code,
            results=lambda wildcards, output: Path(output.svg[0]).parents[2],
            folder=lambda wildcards, output: Path(output.svg[0]).parent,
            names=lambda wildcards: VARIANT_FIGURES[wildcards.variant],
            concept=as_it_is(STUDY.concept),
            words=as_it_is(STUDY.concept_words),
            reward=as_it_is(STUDY.reward_name),
            kl_factors=STUDY.factors,
            variants=VARIANTS,
            seed=STUDY.seeds[0],
            published=published_flag,
        message:
            "Drawing the figures of the variant {wildcards.variant}"
        shell:
            "run_script draw_figure --name {params.names:q}"
            " --results {params.results:q} --concept={params.concept:q}"
            " --concept-words {params.words:q} --reward={params.reward:q}"
            " --kl-factors {params.kl_factors} --variant {wildcards.variant:q}"
            " --variants {params.variants:q} --seed {params.seed} {params.published:q} --out {params.folder:q} 2> {log:q}"
