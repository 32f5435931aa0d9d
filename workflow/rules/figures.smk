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
        prefix=subpath(output.svg, strip_suffix=".svg"),
        module=figure_module,
        concept=as_it_is(STUDY.concept),
        words=as_it_is(STUDY.concept_words),
        reward=as_it_is(STUDY.reward_name),
        kl_factors=STUDY.factors,
        variant=VARIANTS[0],
        seed=STUDY.seeds[0],
        published=published_flag,
    message:
        "Drawing: {wildcards.name}"
    shell:
        "run_script draw_figure --name {wildcards.name:q}"
        " --results {params.results:q} --concept={params.concept:q}"
        " --concept-words {params.words:q} --reward={params.reward:q} --kl-factors {params.kl_factors}"
        " --variant {params.variant:q} --seed {params.seed}"
        " {params.published:q} --out-prefix {params.prefix:q} 2> {log:q}"
