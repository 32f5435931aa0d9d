# Figures from tables alone: no model, no GPU, no torch. One rule draws them all; what a figure
# reads, and which modules decide its looks, is in its entry of tinycats.figures.FIGURES.

from tinycats import figures

FIGURE_NAMES = figures.figure_names(STUDY.factors, STUDY.variants)
FIGURE_CATEGORIES = {
    "question": "Question",
    "training": "Training",
    "scores": "Scores",
    "broke": "What broke",
    "transfer": "Transfer",
    "method": "Variants",
}


def figure_files():
    """The figures of the study, as the report embeds and describes them."""
    return expand(
        f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURE_NAMES, kind=["svg", "json"]
    )


def figure_tables(wildcards):
    paths = figures.figure_inputs(
        wildcards.name, STUDY.factors, STUDY.variants[0], str(STUDY.seeds[0])
    )
    return [f"{RESULTS}/{path}" for path in paths]


def figure_code(wildcards):
    return code(f"figures/{figure_module(wildcards)}", script="draw_figure")


def figure_category(wildcards):
    return FIGURE_CATEGORIES[figures.find(wildcards.name)[0].section]


def figure_module(wildcards):
    return figures.find(wildcards.name)[0].module


def figure_factor(wildcards):
    return figures.find(wildcards.name)[1] or "all"


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
            labels={"figure": figure_module, "KL factor": figure_factor},
        ),
        png=f"{RESULTS}/figures/{{name}}.png",
        words=f"{RESULTS}/figures/{{name}}.json",
    log:
        f"{RESULTS}/logs/figures/{{name}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{name}}.jsonl"
    wildcard_constraints:
        name="|".join(FIGURE_NAMES).replace(".", r"\."),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        results=RESULTS,
        prefix=subpath(output.svg, strip_suffix=".svg"),
        module=figure_module,
        concept=config["concept"],
        words=STUDY.concept_words,
        kl_factors=STUDY.factors,
        variant=STUDY.variants[0],
        seed=STUDY.seeds[0],
    shell:
        "python workflow/scripts/draw_figure.py --name {wildcards.name:q}"
        " --results {params.results:q} --concept {params.concept:q}"
        " --concept-words {params.words:q} --kl-factors {params.kl_factors}"
        " --variant {params.variant:q} --seed {params.seed}"
        " --published {input.published} --out-prefix {params.prefix:q} 2> {log:q}"
