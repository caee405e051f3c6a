"""Figures of the papers, and why an entry stands below its own."""

# Percent and the half-width of its interval, if one is published, by learner, source
# and ways, and by shots; from the entry's paper, if not said otherwise. MAML, FOMAML
# and Reptile are transductive there. CIFAR-FS: Conv-4 of 64 filters, from the table of
# Bertinetto et al., "Meta-Learning with Differentiable Closed-Form Solvers", ICLR 2019,
# as others cite it.
_MAML = {1: (98.7, 0.4), 5: (99.9, 0.1)}
FIGURES = {
    ("MAML", "omniglot", 5): _MAML,
    ("MAML", "omniglot-train-alphabets", 5): _MAML,
    ("MAML", "omniglot", 20): {1: (95.8, 0.3), 5: (98.9, 0.2)},
    ("FOMAML", "omniglot", 5): {1: (98.3, 0.5), 5: (99.2, 0.2)},
    ("Reptile", "omniglot", 5): {1: (97.68, 0.04), 5: (99.48, 0.06)},
    ("IMAML", "omniglot", 5): {1: (99.16, 0.35), 5: (99.67, 0.12)},
    ("MetaSGD", "omniglot", 5): {1: (99.53, 0.26), 5: (99.93, 0.09)},
    ("ANIL", "omniglot", 20): {1: (96.2, 0.5), 5: (98.0, 0.3)},
    ("ProtoNet", "omniglot", 5): {1: (98.8, None), 5: (99.7, None)},
    ("ProtoNet", "omniglot", 20): {1: (96.0, None), 5: (98.9, None)},
    ("MAML", "cifar_fs", 5): {1: (58.9, 1.9), 5: (71.5, 1.0)},
    ("ProtoNet", "cifar_fs", 5): {1: (55.5, 0.7), 5: (72.0, 0.6)},
    ("CNP", "omniglot", 5): {1: (95.3, None), 5: (98.5, None)},
    ("CNP", "omniglot", 20): {1: (89.9, None), 5: (96.8, None)},
}

FIVE_SHOTS = "Five shots are asked of weights trained with one; the paper trained anew."
REASONS = {
    "anil.omniglot_20w1s": "It has come to rest: 92.2% of validation tasks at each of "
    "its last four validations. From the encoder of the prototypical "
    "network, in place of MAML's, it was behind by 8 points after 500 meta-steps.",
    "imaml.omniglot_5w1s": "From MAML's weights, whose figure it keeps: the implicit "
    "gradient has not bettered them, after 100 meta-steps or 500. With the authors' "
    "lambda of 2, not 0.1, answers stayed unsure and it came to 97.9; without damping "
    "(lambda 0.5) it unlearned in 200 meta-steps, and at a rate of 1e-3 training "
    "diverged. From nothing it has not been trained: a meta-step takes 0.6 seconds of "
    "one core.",
    "maml.omniglot_20w1s": "From ANIL's weights and not below them, in an hour of one "
    "core: a second-order meta-step of 8 tasks takes a second, and the paper's run had "
    "a GPU. At a rate of 0.5 for all layers it came to rest at 90.5% of validation "
    "tasks, from ANIL's head rate and the published one for the body at 92.2%.",
    "maml.omniglot_5w1s": "One shot is within both intervals. " + FIVE_SHOTS,
    "maml.omniglot_5w1s-inductive": "It answers each query by itself, the published "
    "figures share statistics among queries: asked so, it reaches them at one shot. "
    + FIVE_SHOTS,
    "maml.omniglot_5w1s-alphabets": "Its test classes are of whole alphabets that "
    "training has not seen, and are harder than the published split's, of characters "
    "from any. " + FIVE_SHOTS,
    "protonet.lake": "It names 84% of three validation alphabets' characters, and no "
    "more after 2,000 further meta-steps with tasks of any alphabets or each of one; "
    "in 1,500 meta-steps images of 42x42 came no further. MAML's strided network came "
    "to 82%, from nothing and from drawn glyphs, which small1 and small2 began from. "
    "The network was too small: protonet.lake-resnet12 comes to 87%.",
    "meta_sgd.omniglot_5w1s": "From MAML's weights, whose figure it passes; longer "
    "runs have not been made. " + FIVE_SHOTS,
}


# The network of figures that are of one alone, by source.
NETWORKS = {"cifar_fs": "conv4"}


def of(card, shots):
    """The published figure of an entry, `(percent, half-width or None)`, or None."""
    if NETWORKS.get(card.source, card.network) != card.network:
        return None
    return FIGURES.get((card.learner, card.source, card.ways), {}).get(shots)


# How an entry's method differs from that of the published figure.
NOTES = {
    "CNP": "each class is scored by one shared decoder of its mean representation and "
    "the query, in place of one decoder of all classes' representations joined: so "
    "that any number of classes may be asked for"
}


def sentence(figure):
    """A published figure in words, such as `98.7 ± 0.4`; "" for None."""
    mean, interval = figure or ("", None)
    return f"{mean}" if interval is None else f"{mean} ± {interval}"


def below(card):
    """`[(figure, published)]` of an entry, asked as it was trained, that are lower."""
    found = []
    for figure in card.figures:
        there = of(card, figure["shots"])
        as_trained = figure["normalization"] == card.normalization
        if there and as_trained and 100 * figure["mean"] < there[0]:
            found.append((figure, there))
    return found
