# The limit: the best achievable reward at each KL, and each policy's gap to it.


from tinycats.frontier.settings import FrontierSettings


rule frontier:
    input:
        log_probs=rules.completions.output.log_probs,
        searched=rules.completions.output.searched,
        base=rules.completions.output.base,
        prompted=rules.completions.output.prompted,
        policies=rules.completions.output.policies,
        seals=rules.completions.output.seals,
    output:
        limit=f"{RESULTS}/{layout.FRONTIER['limit']}",
        best_of_n=f"{RESULTS}/{layout.FRONTIER['best_of_n']}",
        policies=f"{RESULTS}/{layout.FRONTIER['policies']}",
        prompted=f"{RESULTS}/{layout.FRONTIER['prompted']}",
        openings=f"{RESULTS}/{layout.FRONTIER['openings']}",
        seals=seals(*(f"{RESULTS}/{path}" for path in layout.FRONTIER.values())),
    log:
        f"logs/{STUDY.name}/frontier.log",
    benchmark:
        f"{RESULTS}/benchmarks/frontier.jsonl"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes(1000 * STUDY.evaluation.bootstrap_samples, "log_probs"),
    params:
        code=code(script="frontier"),
        settings=stage_settings(FrontierSettings),
        folder=subpath(output.limit, parent=True),
    message:
        "Estimating the best achievable reward at each KL"
    shell:
        "run_script frontier --log-probs {input.log_probs:q} --searched {input.searched:q}"
        " --base {input.base:q}"
        " --prompted {input.prompted:q} --settings {params.settings:q}"
        " --out {params.folder:q} 2> {log:q}"
