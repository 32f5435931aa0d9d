# Base model and models of rewards, the only files of a study that are downloaded. They are outside
# results/, so that regenerating results downloads nothing, and are declared file by file, since Snakemake
# compares folders by time stamp only.


rule base_model:
    input:
        model=files_of(STUDY.base_model),
        tokenizer=files_of(STUDY.tokenizer or STUDY.base_model),
    output:
        weights=f"{BASE_MODEL}/model.safetensors",
        config=f"{BASE_MODEL}/config.json",
        tokenizer=f"{BASE_MODEL}/tokenizer.json",
        others=f"{BASE_MODEL}/{ARCHIVE}",
        manifest=f"{BASE_MODEL}/manifest.json",
    log:
        "logs/models/base_model.log",
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.base_model),
        words=as_it_is(MODEL_WORDS[Path(BASE_MODEL).name]),
    message:
        "Getting the base model: {params.model}"
    shell:
        "run_script obtain_models {params.words:q} --out {params.folder:q} 2> {log:q}"


# The files that an encoder has besides (pooling, word lists) depend on its kind: they are in the archive,
# too.
rule reward_encoder:
    input:
        encoder_files(),
    output:
        weights=f"{REWARD_ENCODER}/model.safetensors",
        config=f"{REWARD_ENCODER}/config.json",
        modules=f"{REWARD_ENCODER}/modules.json",
        tokenizer=f"{REWARD_ENCODER}/tokenizer.json",
        others=f"{REWARD_ENCODER}/{ARCHIVE}",
        manifest=f"{REWARD_ENCODER}/manifest.json",
    log:
        "logs/models/reward_encoder.log",
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=as_it_is(STUDY.reward_encoder),
        words=as_it_is(MODEL_WORDS[Path(REWARD_ENCODER).name]),
    message:
        "Getting the reward's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models {params.words:q} --out {params.folder:q} 2> {log:q}"


# A reward's classifier, in a folder of CLASSIFIERS.
rule classifier:
    input:
        lambda wildcards: files_of(CLASSIFIERS[wildcards.folder].classifier)(wildcards),
    output:
        weights="resources/models/{folder}/model.safetensors",
        config="resources/models/{folder}/config.json",
        tokenizer="resources/models/{folder}/tokenizer.json",
        others=f"resources/models/{{folder}}/{ARCHIVE}",
        manifest="resources/models/{folder}/manifest.json",
    log:
        "logs/models/{folder}.log",
    wildcard_constraints:
        folder="|".join(map(re.escape, CLASSIFIERS)) or "(?!)",  # else nothing matches
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: CLASSIFIERS[wildcards.folder].classifier,
        words=lambda wildcards: MODEL_WORDS[wildcards.folder],
    message:
        "Getting a classifier: {params.model}"
    shell:
        "run_script obtain_models {params.words:q} --out {params.folder:q} 2> {log:q}"


# The sentence encoder of a judge, in a folder of JUDGE_ENCODERS.
rule judge_encoder:
    input:
        lambda wildcards: files_of(
            JUDGE_ENCODERS[wildcards.folder].encoder, "encoder"
        )(wildcards),
    output:
        weights="resources/models/{folder}/model.safetensors",
        config="resources/models/{folder}/config.json",
        modules="resources/models/{folder}/modules.json",
        tokenizer="resources/models/{folder}/tokenizer.json",
        others=f"resources/models/{{folder}}/{ARCHIVE}",
        manifest="resources/models/{folder}/manifest.json",
    log:
        "logs/models/{folder}.log",
    wildcard_constraints:
        folder="|".join(map(re.escape, JUDGE_ENCODERS)) or "(?!)",
    retries: 2
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        code=code(script="obtain_models"),
        folder=subpath(output.manifest, parent=True),
        model=lambda wildcards: JUDGE_ENCODERS[wildcards.folder].encoder,
        words=lambda wildcards: MODEL_WORDS[wildcards.folder],
    message:
        "Getting a judge's sentence encoder: {params.model}"
    shell:
        "run_script obtain_models {params.words:q} --out {params.folder:q} 2> {log:q}"


# Snakemake does not notice damage. As a target, this rule always runs.
rule models:
    input:
        manifests(),
    log:
        "logs/models/models.log",
    localrule: True
    conda:
        "../../envs/tinycats.yaml"
    params:
        commands=mending,
    message:
        "Checking the models' files"
    shell:
        "({params.commands}) 2> {log:q}"
