"""Action units as privileged information: coded for training clips alone, never needed of a test clip.

After the idea of Vapnik and Vashist, "A new learning paradigm: learning using privileged information", 2009:
what only a teacher sees shapes what is learnt. How strongly a picture shows each unit is estimated from the
coded training clips and becomes a second kernel beside that of the pictures. No constant was chosen by score;
that the second kernel is linear in the scores was, of two forms tried.
"""

import numpy as np

from capsule.data.action_units import FEWEST

RIDGE = 1.0         # of the regression, in units of a kernel whose diagonal is about 1


class UnitScores:
    """Kernel ridge regression from pictures to action units.

    kernel: (n, n) of the training pictures. subjects: (n,). units: float (n, units), nan rows where not
    coded. A coded clip's own scores come from the other subjects' clips, as a test clip's will.
    """

    def __init__(self, kernel, subjects, units):
        self.coded = np.flatnonzero(~np.isnan(units).any(1))
        units = units[self.coded]
        units = units[:, units.sum(0) >= FEWEST].astype(float)                      # (m coded, units)
        wanted, subjects = units - units.sum(0) / max(1, len(units)), np.asarray(subjects)[self.coded]
        inner = kernel[np.ix_(self.coded, self.coded)]
        inverse = np.linalg.inv(inner + RIDGE * np.eye(len(inner)))
        self.weights, hat = inverse @ wanted, inner @ inverse
        own = kernel[:, self.coded] @ self.weights                                  # (n, units)
        for subject in np.unique(subjects):     # as if it had been left out, but for the means
            rows = np.flatnonzero(subjects == subject)
            rest = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
            at = self.coded[rows]
            own[at] = wanted[rows] - np.linalg.solve(rest, wanted[rows] - own[at])
        self.centre, self.spread = own.mean(0), own.std(0) + 1e-9
        self.own = (own - self.centre) / self.spread                                # (n, units)

    def of(self, kernel):
        """Scores (m, units) of other pictures, from their kernel with the training pictures (m, n)."""
        return (kernel[:, self.coded] @ self.weights - self.centre) / self.spread

    def kernel(self, scores):
        """(m, n): how alike scores (m, units) are to the training clips' own."""
        return scores @ self.own.T / max(1, self.own.shape[1])
