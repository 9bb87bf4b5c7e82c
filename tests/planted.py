"""What the self-test plants and in which models, of all families together."""

from vit2onnx.families.fault import InGraph
from vit2onnx.spec.family import families, part, self_test_models

FAULTS_OF = [part(family, "faults") for family in families()]

MODELS = self_test_models()
AMPLIFIED = {model: amplify for faults in FAULTS_OF for model, amplify in faults.AMPLIFIED.items()}
# In the order of the self-test: model by model.
IN_CHAIN = [fault for model in MODELS for faults in FAULTS_OF for fault in faults.FAULTS if fault.model == model]
IN_GRAPH = [fault for fault in IN_CHAIN if isinstance(fault, InGraph)]
IN_PREPROCESSING = [fault for faults in FAULTS_OF for fault in faults.PREPROCESSING]
