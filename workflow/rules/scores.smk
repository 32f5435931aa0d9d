# Scores: one row a story, in one job a study (the encoder is loaded once); then all tables.


rule scores:
    input:
        base=rules.base_stories.output.base,
        prompted=rules.base_stories.output.prompted,
        policies=per_policy(f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"),
        forgetting=per_policy(
            f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.base.jsonl"
        ),
        encoder=f"{REWARD_ENCODER}/model.safetensors",
        tokenizer=f"{BASE_MODEL}/tokenizer.json",
        reference=rules.reference.output[0],
        run=run_files()[0],
        code=code(script="score"),
    output:
        stories=f"{RESULTS}/scores/stories.csv",
        sets=f"{RESULTS}/scores/sets.csv",
    log:
        f"logs/{STUDY.name}/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/scores.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(len(story_files()) * story_work(), "encoder"),
        torch_threads=STUDY.threads,
        device=STUDY.device,
    params:
        encoder=subpath(input.encoder, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        words=as_it_is(json.dumps(STUDY.concept_words, ensure_ascii=False)),
        policies=spread(f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"),
        forgetting=spread(
            f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.base.jsonl"
        ),
        folder=subpath(output.stories, parent=True),
    shell:
        "python workflow/scripts/score.py --base-stories {input.base:q}"
        " --prompted-stories {input.prompted:q} --policy-stories {params.policies}"
        " --forgetting {params.forgetting} --encoder {params.encoder:q}"
        " --reference {input.reference:q} --tokenizer {params.tokenizer:q}"
        " --concept-words {params.words:q} --run {input.run:q}"
        " --device {resources.device} --threads {resources.torch_threads}"
        " --out {params.folder:q} 2> {log:q}"


rule tables:
    input:
        scores=rules.scores.output.stories,
        sets=rules.scores.output.sets,
        stories=story_files(),
        base=[rules.completions.output.base, rules.completions.output.prompted],
        completions=rules.completions.output.policies,
        first_token=rules.completions.output.first_token,
        training=per_policy(f"{POLICY}/training.csv"),
        top=per_policy(f"{POLICY}/top_completions.csv"),
        run=run_files()[0],
        code=code(script="make_tables"),
    output:
        expand(
            f"{RESULTS}/tables/{{name}}.csv",
            name=TABLES,
        ),
    log:
        f"logs/{STUDY.name}/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        words=as_it_is(json.dumps(STUDY.concept_words, ensure_ascii=False)),
        batch_size=STUDY.training.batch_size,
        base_stories=base_story_files(),
        stories=spread(f"{STORIES}/{{variant}}/kl={{factor}}/seed={{seed}}.jsonl"),
        completions=spread(f"{COMPLETIONS}/{{variant}}/kl={{factor}}/seed={{seed}}.csv"),
        training=spread(f"{POLICY}/training.csv"),
        top=spread(f"{POLICY}/top_completions.csv"),
        folder=subpath(output[0], parent=True),
    shell:
        "python workflow/scripts/make_tables.py --story-scores {input.scores:q}"
        " --set-scores {input.sets:q} --stories {params.base_stories:q} {params.stories}"
        " --completions {input.base:q} {params.completions} --training {params.training}"
        " --top-completions {params.top} --first-token {input.first_token:q}"
        " --concept-words {params.words:q} --run {input.run:q} --batch-size {params.batch_size}"
        " --out {params.folder:q} 2> {log:q}"
