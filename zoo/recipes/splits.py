"""Splits of classes by name: the published CIFAR-FS and FC100, and our photographs.

CIFAR-FS: Bertinetto, Henriques, Torr and Vedaldi, "Meta-Learning with Differentiable
Closed-Form Solvers", ICLR 2019, arXiv 1805.08136. FC100: Oreshkin, Rodriguez Lopez and
Lacoste, "TADAM: Task Dependent Adaptive Metric for Improved Few-Shot Learning", NeurIPS
2018, arXiv 1805.10123. Both list classes of CIFAR-100 in the spelling of TFDS.
"""

CIFAR_FS = {
    "train": (
        "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle "
        "caterpillar chair clock cloud cockroach couch cup dinosaur dolphin elephant "
        "forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster "
        "mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate "
        "porcupine possum rabbit raccoon ray road seal shrew skunk skyscraper snake "
        "spider squirrel streetcar sunflower tank tiger train trout tulip turtle "
        "willow_tree wolf"
    ).split(),
    "validation": (
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree "
        "motorcycle otter sea shark television tractor"
    ).split(),
    "test": (
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket "
        "rose snail sweet_pepper table telephone wardrobe whale woman worm"
    ).split(),
}
FC100 = {
    "train": (
        "apple aquarium_fish bed bicycle bottle bowl bridge bus can castle chair clock "
        "cloud couch crocodile cup dinosaur flatfish forest house keyboard lamp "
        "lawn_mower lizard maple_tree motorcycle mountain mushroom oak_tree orange "
        "orchid palm_tree pear pickup_truck pine_tree plain plate poppy ray road "
        "rocket rose sea shark skyscraper snake streetcar sunflower sweet_pepper table "
        "tank telephone television tractor train trout tulip turtle wardrobe "
        "willow_tree"
    ).split(),
    "validation": (
        "bear camel cattle chimpanzee crab elephant hamster kangaroo leopard lion "
        "lobster mouse rabbit shrew snail spider squirrel tiger wolf worm"
    ).split(),
    "test": (
        "baby beaver bee beetle boy butterfly caterpillar cockroach dolphin fox girl "
        "man otter porcupine possum raccoon seal skunk whale woman"
    ).split(),
}

# Caltech-101 without its background and the second set of faces.
CALTECH101 = (
    "Faces Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver "
    "binocular bonsai brain brontosaurus buddha butterfly camera cannon car_side "
    "ceiling_fan cellphone chair chandelier cougar_body cougar_face crab crayfish "
    "crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly "
    "electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield "
    "gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter ibis "
    "inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus mandolin "
    "mayfly menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza "
    "platypus pyramid revolver rhino rooster saxophone schooner scissors scorpion "
    "sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry "
    "sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat "
    "windsor_chair wrench yin_yang"
).split()
# Classes with a related class: the same animal or thing in the other data set, or twice
# in Caltech-101. All of them are training classes, so that no held-out class resembles
# a training class.
KIN = {
    "cifar100": (
        "beaver butterfly chair crab crocodile cup dolphin elephant kangaroo lamp "
        "lobster sunflower baby boy girl man woman dinosaur leopard motorcycle "
        "pickup_truck telephone turtle"
    ).split(),
    "caltech101": (
        "beaver butterfly chair crab crocodile cup dolphin elephant kangaroo lamp "
        "lobster sunflower Faces Leopards Motorbikes brontosaurus car_side cellphone "
        "cougar_body cougar_face crayfish crocodile_head flamingo flamingo_head "
        "hawksbill ketch lotus schooner stegosaurus water_lilly wild_cat windsor_chair"
    ).split(),
}
# Drawn by `np.random.RandomState(0)` from the classes without a related class, five of
# each data set. Those of CIFAR-100 are validation and test classes of CIFAR-FS too. All
# other classes are training classes.
PHOTOS = {
    "validation": {
        "cifar100": "camel cattle maple_tree television tractor".split(),
        "caltech101": "garfield inline_skate octopus panda rooster".split(),
    },
    "test": {
        "cifar100": "chimpanzee fox poppy sweet_pepper worm".split(),
        "caltech101": "anchor brain headphone sea_horse soccer_ball".split(),
    },
}
