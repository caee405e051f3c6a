"""Figures of the papers, and the reasons for entries with lower figures."""

# Percent and the half-width of its interval, if one is published: by learner, source
# and ways, and by shots. The figures are those of the entry's paper, where MAML, FOMAML
# and Reptile are transductive. CIFAR-FS is an exception: Conv-4 with 64 filters, from
# the table of Bertinetto et al., "Meta-Learning with Differentiable Closed-Form
# Solvers", ICLR 2019, as other papers cite it.
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

FIVE_SHOTS = (
    "The five-shot figure uses weights trained with one shot; the paper trained with "
    "five shots."
)
REASONS = {
    "anil.omniglot_20w1s": "Validation accuracy has plateaued at 92.2% over the last "
    "four checks. With the encoder of the prototypical network instead of MAML's, it "
    "was 8 points lower after 500 meta-steps.",
    "imaml.omniglot_5w1s": "The authors trained on about 640,000 tasks, this run on "
    "136,000 (3.5 hours). It was stopped at meta-step 17,000 of the 20,000 over which "
    "a cosine decays its meta-rate to zero. Validation accuracy was 94.5% at meta-step "
    "11,000 and between 94.8% and 95.0% from 13,000 on. First-order MAML had 95.2% "
    "after 112,000 tasks and 98.2% after 1,280,000.",
    "maml.omniglot_20w1s": "Training began from ANIL's weights, did not fall below "
    "their figure, and took 0.7 hours; a second-order meta-step of 8 tasks takes 1.3 "
    "seconds, and the paper's run had a GPU. With a rate of 0.5 for all layers "
    "validation accuracy plateaued at 90.5%; with ANIL's rate for the head and the "
    "published rate for the body, at 92.2%.",
    "maml.omniglot_5w1s": "The one-shot figure is within both intervals. " + FIVE_SHOTS,
    "maml.omniglot_5w1s-inductive": "It predicts each query independently; the "
    "published figures share normalization statistics among queries. Evaluated that "
    "way, it reaches the published one-shot figure. " + FIVE_SHOTS,
    "maml.omniglot_5w1s-alphabets": "Its test classes are whole alphabets that "
    "training has not seen. They are harder than those of the published split, which "
    "draws characters from all alphabets. " + FIVE_SHOTS,
    "protonet.lake": "Accuracy on the characters of three validation alphabets is "
    "84%. It did not improve in 2,000 further meta-steps, with tasks from all "
    "alphabets or from one alphabet each, nor in 1,500 meta-steps with 42x42 images. "
    "MAML's strided network reached 82%, from random weights and from the weights for "
    "drawn glyphs that small1 and small2 began from. The network was too small: "
    "protonet.lake-resnet12 reaches 87%.",
    "reptile.omniglot_5w1s": "Validation accuracy rose from 96.0% at meta-step 22,000 "
    "to 96.4% at 40,000 (two hours), and is equal for 5 to 100 evaluation steps. The "
    "paper's run has 100,000 meta-steps of Adam, whose moments continue from task to "
    "task; here the inner optimizer is SGD. The same weights are evaluated with one "
    "and with five shots; their training tasks have ten examples of each class, as "
    "those of the authors' five-shot runs.",
    "meta_sgd.omniglot_5w1s": "Validation accuracy rose from 98.5% at meta-step 20,000 "
    "to 98.7% at 34,000 and did not improve until 40,000. " + FIVE_SHOTS,
}


# By source: the published figures are those of this network only.
NETWORKS = {"cifar_fs": "conv4"}


def figure(card, shots):
    """The published figure of an entry, `(percent, half-width or None)`, or None."""
    if NETWORKS.get(card.source, card.network) != card.network:
        return None
    return FIGURES.get((card.learner, card.source, card.ways), {}).get(shots)


# Differences between the method of an entry and that of the published figure.
NOTES = {
    "CNP": "one shared decoder computes the logit of each class from its mean "
    "representation and the query, instead of one decoder of the concatenated "
    "representations of all classes; the number of classes is therefore free"
}


def sentence(published):
    """A published figure in words, such as `98.7 ± 0.4`; "" for None."""
    mean, interval = published or ("", None)
    return f"{mean}" if interval is None else f"{mean} ± {interval}"


def below(card):
    """`[(figure, published)]`: figures of an entry that are lower than published.

    Only figures with the normalization of its training count.
    """
    lower = []
    for measured in card.figures:
        published = figure(card, measured["shots"])
        as_trained = measured["normalization"] == card.normalization
        if published and as_trained and 100 * measured["mean"] < published[0]:
            lower.append((measured, published))
    return lower
