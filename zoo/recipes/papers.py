"""The papers of the algorithms, as cards cite them."""

MAML_PAPER = (
    "Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep "
    "Networks, ICML 2017, arXiv 1703.03400"
)
REPTILE_PAPER = (
    "Nichol, Achiam and Schulman, On First-Order Meta-Learning Algorithms, 2018, arXiv "
    "1803.02999"
)
IMAML_PAPER = (
    "Rajeswaran, Finn, Kakade and Levine, Meta-Learning with Implicit Gradients, "
    "NeurIPS 2019, arXiv 1909.04630"
)
META_SGD_PAPER = (
    "Li, Zhou, Chen and Li, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, "
    "2017, arXiv 1707.09835"
)
ANIL_PAPER = (
    "Raghu, Raghu, Bengio and Vinyals, Rapid Learning or Feature Reuse? Towards "
    "Understanding the Effectiveness of MAML, ICLR 2020, arXiv 1909.09157"
)
SHRINKAGE_PAPER = (
    "Chen, Friesen, Behbahani, Doucet, Budden, Hoffman and de Freitas, Modular "
    "Meta-Learning with Shrinkage, NeurIPS 2020, arXiv 1909.05557"
)

LSTM_PAPER = (
    "Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent, ICANN "
    "2001"
)
CNP_PAPER = "Garnelo et al., Conditional Neural Processes, ICML 2018, arXiv 1807.01613"
ATTENTION_PAPER = (
    "Kim et al., Attentive Neural Processes, ICLR 2019, arXiv 1901.05761 (its "
    "deterministic path)"
)
MANN_PAPER = (
    "Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, Meta-Learning with "
    "Memory-Augmented Neural Networks, ICML 2016"
)
PROTONET_PAPER = (
    "Snell, Swersky and Zemel, Prototypical Networks for Few-shot Learning, NeurIPS "
    "2017, arXiv 1703.05175"
)
