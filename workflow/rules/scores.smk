# Scores, one row per story, in one job per study (the reward is loaded once); judges; then all tables.


rule scores:
    input:
        **reward_input(),
        base=stories_of(layout.BASE),
        prompted=stories_of(layout.PROMPTED),
        policies=per_policy(STORIES),
        openings=opening_story_files(),
        forgetting=per_policy(FORGETTING),
        seals=seals(*story_files(), *per_policy(FORGETTING), run_files()[0]),
        tokenizer=rules.base_model.output.tokenizer,
        files=rules.base_model.output,
        run=run_files()[0],
    output:
        stories=f"{RESULTS}/{layout.SCORES['stories']}",
        sets=f"{RESULTS}/{layout.SCORES['sets']}",
        opening_sets=f"{RESULTS}/{layout.SCORES['opening_sets']}",
        seals=seals(*(f"{RESULTS}/{path}" for path in layout.SCORES.values())),
    log:
        f"logs/{STUDY.name}/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/scores.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(len(story_files()) * story_work(), *REWARD_WEIGHTS),
        torch_threads=torch_threads(1),
        device=STUDY.device,
    params:
        code=code(script="score"),
        reward=reward_words,
        tokenizer=subpath(input.tokenizer, parent=True),
        words=as_it_is(json.dumps(STUDY.concept_words, ensure_ascii=False)),
        policies=spread(STORIES),
        openings=opening_spread(),
        forgetting=spread(FORGETTING),
        folder=subpath(output.stories, parent=True),
    message:
        "Scoring the stories of all models"
    shell:
        "run_script score --base-stories {input.base:q}"
        " --prompted-stories {input.prompted:q} --policy-stories {params.policies}"
        " --opening-stories {params.openings} --forgetting {params.forgetting} {params.reward:q}"
        " --tokenizer {params.tokenizer:q}"
        " --concept-words {params.words:q} --run {input.run:q}"
        " --device {resources.device} --threads {resources.torch_threads}"
        " --out {params.folder:q} 2> {log:q}"


# Rewards that are measured and not trained on, where the study has some.
rule judges:
    input:
        judges=judge_input,
        completions=rules.completions.output.policies,
        base_completions=[
            rules.completions.output.base,
            rules.completions.output.prompted,
        ],
        base_stories=base_story_files(),
        stories=story_files(),
        seals=[
            *rules.completions.output.seals,
            *seals(*story_files()),
            *rules.scores.output.seals,
        ],
        scores=rules.scores.output.stories,
        tokenizer=rules.base_model.output.tokenizer,
        files=rules.base_model.output,
    output:
        table=f"{RESULTS}/{layout.JUDGES}",
        seals=seals(f"{RESULTS}/{layout.JUDGES}"),
    log:
        f"logs/{STUDY.name}/judges.log",
    benchmark:
        f"{RESULTS}/benchmarks/judges.jsonl"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=mem_mb,
        runtime=minutes(len(story_files()) * story_work(), "judges"),
        torch_threads=torch_threads(1),
        device=STUDY.device,
    params:
        code=code(script="judge"),
        tokenizer=subpath(input.tokenizer, parent=True),
        judges=judges_flag,
        completions=spread(COMPLETIONS),
        stories=spread(STORIES),
        rewards=f"{RESULTS}/{layout.REWARDS}",
    message:
        "Scoring with the judges"
    shell:
        "run_script judge --completions {input.base_completions:q} {params.completions}"
        " --stories {input.base_stories:q} {params.stories} --story-scores {input.scores:q}"
        " --tokenizer {params.tokenizer:q} --judges {params.judges:q}"
        " --rewards {params.rewards:q} --device {resources.device}"
        " --threads {resources.torch_threads} --out {output.table:q} 2> {log:q}"


rule tables:
    input:
        scores=rules.scores.output.stories,
        sets=rules.scores.output.sets,
        opening_sets=rules.scores.output.opening_sets,
        openings=f"{RESULTS}/{layout.FRONTIER['openings']}",
        base_stories=base_story_files(),
        stories=[*per_policy(STORIES), *opening_story_files()],
        base=[
            rules.completions.output.base,
            *([] if WITHOUT else [rules.completions.output.prompted]),
        ],
        completions=rules.completions.output.policies,
        first_token=rules.completions.output.first_token,
        training=per_policy(f"{POLICY}/{layout.TRAINING.name}"),
        top=per_policy(f"{POLICY}/{layout.TOP_COMPLETIONS.name}"),
        policies=f"{RESULTS}/{layout.FRONTIER['policies']}",
        prompted=f"{RESULTS}/{layout.FRONTIER['prompted']}",
        run=run_files()[0],
        seals=[
            *rules.scores.output.seals,
            *seals(*story_files(), *tables_below("frontier"), run_files()[0]),
            *rules.completions.output.seals,
            *(
                seal
                for file in (layout.TRAINING, layout.TOP_COMPLETIONS)
                for seal in seals(*per_policy(f"{POLICY}/{file.name}"))
            ),
        ],
    output:
        tables=tables_below("tables"),
        seals=seals(*tables_below("tables")),
    log:
        f"logs/{STUDY.name}/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code(script="make_tables"),
        words=as_it_is(json.dumps(STUDY.concept_words, ensure_ascii=False)),
        batch_size=STUDY.training.batch_size,
        batch_size_of=json.dumps(
            {name: v.batch_size for name, v in STUDY.variants.items() if v.batch_size}
        ),
        fewer_prompts=[
            name
            for name, own in STUDY.variants.items()
            if own.prompts and own.prompts < len(STUDY.training.prompts)
        ],
        stories=spread(STORIES),
        opened=opening_spread(),
        completions=spread(COMPLETIONS),
        training=spread(f"{POLICY}/{layout.TRAINING.name}"),
        top=spread(f"{POLICY}/{layout.TOP_COMPLETIONS.name}"),
        folder=subpath(output[0], parent=True),
    message:
        "Making the tables"
    shell:
        "run_script make_tables --story-scores {input.scores:q}"
        " --set-scores {input.sets:q} --stories {input.base_stories:q} {params.stories}"
        " {params.opened} --opening-sets {input.opening_sets:q} --openings {input.openings:q}"
        " --completions {input.base:q} {params.completions} --training {params.training}"
        " --top-completions {params.top} --first-token {input.first_token:q}"
        " --policies {input.policies:q} --prompted {input.prompted:q}"
        " --concept-words {params.words:q} --run {input.run:q} --batch-size {params.batch_size}"
        " --batch-size-of {params.batch_size_of:q} --fewer-prompts {params.fewer_prompts}"
        " --out {params.folder:q} 2> {log:q}"
