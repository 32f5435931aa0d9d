# Figures from tables alone: no model, no GPU, no torch. One rule draws them all; what a figure
# reads, and which modules decide its looks, is in its entry of tinycats.figures.FIGURES.


rule figure:
    input:
        tables=figure_tables,
        published="workflow/resources/published_curves.csv",
        code=figure_code,
    output:
        svg=report(
            f"{RESULTS}/figures/{{name}}.svg",
            caption="../report/captions/figure.rst",
            category=figure_category,
            labels=figure_labels,
        ),
        png=f"{RESULTS}/figures/{{name}}.png",
        words=f"{RESULTS}/figures/{{name}}.json",
    log:
        f"logs/{STUDY.name}/figures/{{name}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{name}}.jsonl"
    wildcard_constraints:
        name="|".join(FIGURE_NAMES).replace(".", r"\."),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        results=subpath(output.svg, ancestor=2),
        prefix=subpath(output.svg, strip_suffix=".svg"),
        module=figure_module,
        concept=as_it_is(STUDY.concept),
        words=as_it_is(STUDY.concept_words),
        kl_factors=STUDY.factors,
        variant=VARIANTS[0],
        seed=STUDY.seeds[0],
    shell:
        "python workflow/scripts/draw_figure.py --name {wildcards.name:q}"
        " --results {params.results:q} --concept={params.concept:q}"
        " --concept-words {params.words:q} --kl-factors {params.kl_factors}"
        " --variant {params.variant:q} --seed {params.seed}"
        " --published {input.published} --out-prefix {params.prefix:q} 2> {log:q}"
