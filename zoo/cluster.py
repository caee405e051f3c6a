"""The processes that train one learner together, as TF_CONFIG describes them."""

import json

KINDS = ("chief", "worker")


def parse(text):
    """The number of processes of a cluster, and whether this is its first.

    The first process writes the checkpoints.

    Args:
        text: the value of TF_CONFIG.

    Raises:
        ValueError: it is no JSON, lacks the cluster or the task, or the task is not in
            the cluster.
    """
    form = (
        'expected TF_CONFIG to be JSON such as {"cluster": {"worker": ["host:port", '
        '...]}, "task": {"type": "worker", "index": 0}}, '
    )
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{form}got no JSON: {error}.") from error
    for key in ("cluster", "task"):
        if not isinstance(config, dict) or not isinstance(config.get(key), dict):
            raise ValueError(f"{form}got no {key}: {json.dumps(config)}.")
    cluster, task = config["cluster"], config["task"]
    for kind, addresses in cluster.items():
        if kind not in KINDS or not isinstance(addresses, list) or not addresses:
            raise ValueError(
                f"{form}got {kind} = {addresses!r} in its cluster; the kinds are "
                f"{' and '.join(KINDS)}, each with a list of addresses."
            )
    kind, index = task.get("type"), task.get("index")
    addresses = cluster.get(kind, ()) if isinstance(kind, str) else ()
    if not isinstance(index, int) or index not in range(len(addresses)):
        raise ValueError(f"{form}got a task that its cluster lacks: {task}.")
    return sum(map(len, cluster.values())), _leads(kind, index, cluster)


def is_first(resolver):
    """Whether this process is the first of a strategy's `cluster_resolver`.

    Args:
        resolver: None without a cluster.
    """
    if resolver is None or resolver.task_type is None:
        return True
    jobs = resolver.cluster_spec().jobs
    return _leads(resolver.task_type, resolver.task_id, jobs)


def _leads(kind, index, kinds):
    """Whether a process is the chief, or the first worker if there is no chief."""
    return kind == "chief" or (index == 0 and "chief" not in kinds)
