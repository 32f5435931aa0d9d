# Which figures the study has, what each is drawn from, and the benchmarks that the report sums.

from tinycats.figures import registry as figures

FIGURE_NAMES = figures.figure_names(STUDY.factors, VARIANTS, bool(STUDY.judges))
VARIANT_FIGURES = figures.variant_figures(STUDY.factors, VARIANTS, bool(STUDY.judges))
FIGURE_CATEGORIES = {
    "question": "Question",
    "training": "Training",
    "scores": "Scores",
    "broke": "What broke",
    "transfer": "Transfer",
    "method": "Variants",
}


def figure_files():
    """The figures of the study (SVG, PNG) and their captions (JSON), for the report."""
    kinds = ["svg", "png", "json"]
    own = expand(f"{RESULTS}/{layout.FIGURE}.{{kind}}", name=FIGURE_NAMES, kind=kinds)
    return [*own, *(path for v in VARIANT_FIGURES for path in figures_of(v, *kinds))]


def figures_of(variant, *kinds):
    """The files of a variant's figures; ``{variant}`` stands for all variants after the first."""
    names = next(iter(VARIANT_FIGURES.values()))
    paths = [layout.FIGURE.format(name=f"{variant}/{name}") for name in names]
    return [f"{RESULTS}/{path}.{kind}" for path in paths for kind in kinds]


def benchmark_files():
    """The benchmarks of all jobs before the report. Models have none: where it was lost, they and all that
    is made from them would be made again.
    """
    jobs = [(layout.STORIES, layout.BASE.kind), (layout.STORIES, layout.POLICY)]
    jobs += [(layout.POLICY_FOLDER, layout.POLICY)]
    patterns = [file.benchmark.pattern(kind) for file, kind in jobs]
    stages = ["completions", "scores", "frontier", "tables", "playground"]
    stages += ["judges"] * bool(STUDY.judges)
    stages += ["reference"] * (STUDY.reward.form == "similarity")
    figures = [layout.FIGURE.format(name=name) for name in FIGURE_NAMES]
    figures += [
        layout.FIGURE.format(name=f"of={variant}") for variant in VARIANT_FIGURES
    ]
    own = [f"{name}.jsonl" for name in (*stages, *figures)]
    own += [path for pattern in patterns for path in per_policy(pattern)]
    own += [f"stories/openings/seed={seed}.jsonl" for seed in STUDY.seeds]
    folder = f"{RESULTS}/{layout.BENCHMARKS}"
    return list(dict.fromkeys(f"{folder}/{path}" for path in own))


def figure_tables(wildcards):
    paths = figures.figure_inputs(
        wildcards.name, STUDY.factors, VARIANTS[0], str(STUDY.seeds[0])
    )
    return [f"{RESULTS}/{path}" for path in paths]


def variant_tables(wildcards):
    paths = (
        path
        for name in VARIANT_FIGURES[wildcards.variant]
        for path in figures.figure_inputs(
            name, STUDY.factors, wildcards.variant, str(STUDY.seeds[0])
        )
    )
    return [f"{RESULTS}/{path}" for path in dict.fromkeys(paths)]


def figure_code(wildcards):
    drawn_by = f"tinycats.figures.{figure_module(wildcards)}"
    return code(drawn_by, script="draw_figure")(wildcards)


def variant_figures_code(wildcards):
    names = VARIANT_FIGURES[wildcards.variant]
    modules = dict.fromkeys(figures.find(name)[0].module for name in names)
    drawn_by = [f"tinycats.figures.{module}" for module in modules]
    return code(*drawn_by, script="draw_figure")(wildcards)


def published_flag(wildcards, input):
    """The published curves stand only beside what they are about."""
    return ["--published", input.published] if STUDY.beside_published else []


def figure_category(wildcards):
    return FIGURE_CATEGORIES[figures.find(wildcards.name)[0].section]


def figure_module(wildcards):
    return figures.find(wildcards.name)[0].module


def figure_labels(wildcards):
    factor = figures.find(wildcards.name)[1] or "all"
    return {"figure": figure_module(wildcards), "KL factor": factor}
