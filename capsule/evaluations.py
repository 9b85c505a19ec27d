"""The metrics under the name by which users of the reference programs import them."""
from capsule.metrics import Meter, bootstrap_uf1, confusion_matrix, recall_and_f1  # noqa: F401
