# The concept's embedding, and one policy for each variant, KL factor and seed.


rule reference:
    input:
        weights=f"{REWARD_ENCODER}/model.safetensors",
        manifest=f"{REWARD_ENCODER}/manifest.json",
        code=code(script="embed_reference"),
    output:
        f"{RESULTS}/reference/{STUDY.concept_slug}.safetensors",
    log:
        f"logs/{STUDY.name}/reference.log",
    benchmark:
        f"{RESULTS}/benchmarks/reference.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        encoder=REWARD_ENCODER,
        concept=config["concept"],
    shell:
        "python workflow/scripts/embed_reference.py --encoder {params.encoder:q}"
        " --concept {params.concept:q} --out {output:q} 2> {log:q}"


def training(key):
    return config["training"].get(key)


# A killed job goes on from its state file, which is no output: Snakemake would delete it.
rule policy:
    input:
        weights=f"{BASE_MODEL}/model.safetensors",
        manifest=f"{BASE_MODEL}/manifest.json",
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        reference=rules.reference.output[0],
        code=code(script="train_policy"),
    output:
        weights=f"{POLICY}/model/model.safetensors",
        config=f"{POLICY}/model/config.json",
        tokenizer=f"{POLICY}/model/tokenizer.json",
        manifest=f"{POLICY}/model/manifest.json",
        training=f"{POLICY}/training.csv",
        top=f"{POLICY}/top_completions.csv",
        run=f"{POLICY}/run.json",
    log:
        f"logs/{STUDY.name}/policies/{{variant}}/kl={{factor}}/seed={{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/policies/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        checkpoint_seconds=config["training"]["checkpoint_seconds"],
        torch_threads=config["threads"],
        device=config["device"],
    params:
        folder=POLICY,
        base_model=BASE_MODEL,
        encoder=REWARD_ENCODER,
        rewards=f"{RESULTS}/rewards",
        prompt=training("prompt"),
        steps=training("steps"),
        batch_size=training("batch_size"),
        num_tokens=training("num_tokens"),
        learning_rate=training("learning_rate"),
        weight_decay=training("weight_decay"),
        precision=training("precision"),
        micro_batch=training("micro_batch"),
        snr_every=training("snr_every"),
        baseline=lambda w: config["variants"][w.variant]["baseline"],
        kl=lambda w: config["variants"][w.variant]["kl"],
    shell:
        "python workflow/scripts/train_policy.py --base-model {params.base_model:q}"
        " --encoder {params.encoder:q} --reference {input.reference:q} --out {params.folder:q}"
        " --variant {wildcards.variant} --kl-factor {wildcards.factor} --seed {wildcards.seed}"
        " --prompt {params.prompt:q} --steps {params.steps} --batch-size {params.batch_size}"
        " --num-tokens {params.num_tokens} --learning-rate {params.learning_rate}"
        " --weight-decay {params.weight_decay} --precision {params.precision}"
        " --micro-batch {params.micro_batch} --snr-every {params.snr_every}"
        " --baseline {params.baseline} --kl {params.kl} --rewards {params.rewards:q}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --device {resources.device}"
        " --threads {resources.torch_threads} 2> {log:q}"
