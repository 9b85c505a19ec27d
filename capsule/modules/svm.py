"""The row that a network has to beat: a support vector machine on whole pictures (SPEC section 10)."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

COMPONENTS = 60     # of the principal components; 30 to 120 score alike


class SVM:
    """Standardised pixels, principal components, RBF kernel, classes balanced."""

    pretrained = False

    def __init__(self, classes):
        self.classes = classes

    def fit(self, images, labels):
        """Learn from pictures, uint8 (n, C, H, W), and their class numbers (n,). Returns itself."""
        pixels = _pixels(images)
        components = min(COMPONENTS, *pixels.shape)
        self.pipeline = make_pipeline(StandardScaler(), PCA(components, svd_solver="full"),
                                      SVC(C=1, kernel="rbf", class_weight="balanced")).fit(pixels, labels)
        return self

    def scores(self, images):
        """Shares of 1, float32 (n, classes), of pictures uint8 (n, C, H, W); the largest is the prediction.

        The softmax of the one-against-rest decision values; a class that was not there to learn from gets 0.
        """
        known = self.pipeline[-1].classes_
        decision = self.pipeline.decision_function(_pixels(images))
        if len(known) == 2:
            decision = np.stack([-decision, decision], 1) / 2        # (n,) → (n, 2)
        powers = np.exp(decision - decision.max(1, keepdims=True))
        scores = np.zeros((len(images), self.classes), np.float32)
        scores[:, known] = powers / powers.sum(1, keepdims=True)
        return scores


def _pixels(images):
    return np.asarray(images).reshape(len(images), -1).astype(np.float64)    # (n, C, H, W) → (n, C·H·W)
