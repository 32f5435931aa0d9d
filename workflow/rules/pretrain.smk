# Pretrains a base model such as nano; not part of the default target.
#   snakemake pretrain --cores 2 --configfile config/pretrain.yaml
# The checkpoint in results/pretrain/<name>/checkpoint is not declared as an output, so that a failure or
# a rerun does not delete it: after a kill, the same command resumes.

import yaml

from tinycats.pretrain.recipe import Pretraining

_block = config.get("pretrain")
if _block is None:  # so that `snakemake pretrain` alone uses nano's recipe
    _block = yaml.safe_load(
        (ROOT / "config/pretrain.yaml").read_text(encoding="utf-8")
    )["pretrain"]
try:
    PRETRAINING = Pretraining.from_config(
        _block, workflow.config_settings.config.get("pretrain")
    )
    if "pretrain" in config:  # other targets do not need its corpus
        PRETRAINING.text("train"), PRETRAINING.text("validation")
except UserError as error:
    sys.exit(f"error: {error}")

PRETRAINED = f"results/pretrain/{PRETRAINING.name}"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


rule pretrain:
    input:
        f"{PRETRAINED}/model/README.md",
        multiext(f"{PRETRAINED}/model/learning_curve", ".svg", ".png"),
    message:
        f"The base model is trained: {PRETRAINED}/model"


rule pretrain_corpus:
    output:
        multiext(
            "resources/corpora/{dataset}/",
            "train.txt",
            "validation.txt",
            "source.json",
        ),
    log:
        "logs/pretrain/corpus/{dataset}.log",
    retries: 2
    localrule: True
    conda:
        ENVIRONMENT
    params:
        dataset=lambda wildcards: wildcards.dataset.replace("--", "/"),
        revision=as_it_is(PRETRAINING.corpus_revision or ""),
    message:
        "Getting the stories to train on: {params.dataset}"
    shell:
        "run_script pretrain_corpus --dataset {params.dataset:q}"
        " --revision={params.revision:q} --out resources/corpora/{wildcards.dataset:q} 2> {log}"


rule pretrain_model:
    input:
        train=lambda _: PRETRAINING.text("train"),
        validation=lambda _: PRETRAINING.text("validation"),
    output:
        model=expand(f"{PRETRAINED}/model/{{file}}", file=MODEL_FILES),
        curve=f"{PRETRAINED}/curve.csv",
        run=f"{PRETRAINED}/run.json",
    log:
        f"logs/pretrain/{PRETRAINING.name}.log",
    benchmark:
        f"logs/pretrain/{PRETRAINING.name}.benchmark.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        torch_threads=PRETRAINING.threads,
        device=PRETRAINING.device,
    params:
        code=code(script="pretrain"),
        folder=subpath(output.curve, parent=True),
        settings=as_it_is(as_json(PRETRAINING.recipe)),
    message:
        f"Pretraining: {PRETRAINING.name} ({{input.train}})"
    shell:
        "run_script pretrain --train {input.train:q} --validation {input.validation:q}"
        " --out {params.folder} --settings {params.settings:q}"
        " --device {resources.device} --threads {resources.torch_threads} 2> {log}"


rule pretrain_figure:
    input:
        curve=f"{PRETRAINED}/curve.csv",
    output:
        multiext(f"{PRETRAINED}/model/learning_curve", ".svg", ".png"),
    log:
        f"logs/pretrain/{PRETRAINING.name}.figure.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="pretrain_figure"),
    message:
        "Drawing the learning curve"
    shell:
        "run_script pretrain_figure --curve {input.curve} --out {output} 2> {log}"


rule pretrain_card:
    input:
        model=rules.pretrain_model.output.model,
        curve=rules.pretrain_model.output.curve,
        run=rules.pretrain_model.output.run,
        train=lambda _: PRETRAINING.text("train"),
        validation=lambda _: PRETRAINING.text("validation"),
        encoder=rules.reward_encoder.output.weights,
        files=rules.reward_encoder.output,
        notes=as_it_is(PRETRAINING.notes or []),
        template=shipped("workflow/report/model_card.md.j2"),
    output:
        card=f"{PRETRAINED}/model/README.md",
        numbers=f"{PRETRAINED}/card.json",
    log:
        f"logs/pretrain/{PRETRAINING.name}.card.log",
    benchmark:
        f"logs/pretrain/{PRETRAINING.name}.card.benchmark.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    params:
        code=code(script="model_card"),
        model=subpath(output.card, parent=True),
        encoder=lambda _, input: Path(input.encoder).parent,
        notes=as_it_is(["--notes", PRETRAINING.notes] if PRETRAINING.notes else []),
        machine=["--device", PRETRAINING.device, "--threads", PRETRAINING.threads],
    message:
        "Writing the model card: {output.card}"
    shell:
        "run_script model_card --model {params.model} --run {input.run}"
        " --curve {input.curve} --train {input.train:q} --validation {input.validation:q}"
        " --encoder {params.encoder} --numbers {output.numbers} {params.machine}"
        " {params.notes:q} 2> {log}"
