"""Classifiers without meta-training: nearest mean of pixels, HOG features.

Each function returns the accuracy on one task from uint8 images `[n, H, W, 1 or 3]` and
integer labels. The functions need scikit-image and scikit-learn (pip install -e
'.[bench]').
"""

import functools

import numpy as np

# Cells and blocks of Dalal and Triggs, 2005, on images of 64x64 pixels.
SIZE = 64
HOG = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
# Inverse strengths of the L2 penalty; validation tasks choose one.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
PIXELS, REGRESSION = "nearest mean of pixels", "HOG, logistic regression"


def nearest_mean(support, labels, query, query_labels):
    """Returns the accuracy of the nearest class mean of the pixels."""
    support, query = (x.reshape(len(x), -1).astype("float64") for x in (support, query))
    means = np.stack([support[labels == n].mean(0) for n in range(labels.max() + 1)])
    distances = np.square(query[:, None] - means).sum(-1)
    return np.mean(distances.argmin(1) == query_labels)


def hog(images):
    """Returns HOG features `[n, D]` of images, resized to 64x64 grey pixels."""
    import skimage.color
    import skimage.feature
    import skimage.transform

    def features(image):
        grey = skimage.color.rgb2gray(image) if image.shape[-1] == 3 else image[..., 0]
        grey = skimage.transform.resize(grey, (SIZE, SIZE), anti_aliasing=True)
        return skimage.feature.hog(grey, **HOG)

    return np.stack([features(image) for image in images])


def hog_regression(support, labels, query, query_labels, strength=1.0):
    """Returns the accuracy of logistic regression on HOG features."""
    return of_features(hog(support), labels, hog(query), query_labels, strength)


def of_features(support, labels, query, query_labels, strength):
    """Returns the accuracy of logistic regression on features `[n, D]`."""
    import sklearn.linear_model

    model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=1000)
    return model.fit(support, labels).score(query, query_labels)


def best_strength(tasks):
    """Returns the strength of `hog_regression` with the best validation accuracy.

    Args:
        tasks: validation tasks, tuples of support images, labels, query images and
            query labels.
    """
    scores = np.zeros(len(STRENGTHS))
    for support, labels, query, query_labels in tasks:
        support_features, query_features = hog(support), hog(query)
        for index, strength in enumerate(STRENGTHS):
            scores[index] += of_features(
                support_features, labels, query_features, query_labels, strength
            )
    return STRENGTHS[int(scores.argmax())]


def all_baselines(strength):
    """Returns `{name: function}`, with the strength of `best_strength`."""
    regression = functools.partial(hog_regression, strength=strength)
    return {PIXELS: nearest_mean, REGRESSION: regression}
