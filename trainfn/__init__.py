"""trainfn: learning-rate schedules and optimizer update rules as pure functions, with the same bits everywhere.

This package is the mathematics and imports numpy only; `trainfn_torch` and `trainfn_jax` execute it.
"""

from trainfn.rule import Rule as Rule
from trainfn.rule import Static as Static
from trainfn.rule import chain as chain
from trainfn.rule import rule as rule
from trainfn.rules import adagrad as adagrad
from trainfn.rules import adam as adam
from trainfn.rules import adamw as adamw
from trainfn.rules import clip_by_global_norm as clip_by_global_norm
from trainfn.rules import clip_by_value as clip_by_value
from trainfn.rules import coupled_weight_decay as coupled_weight_decay
from trainfn.rules import decoupled_weight_decay as decoupled_weight_decay
from trainfn.rules import lion as lion
from trainfn.rules import radam as radam
from trainfn.rules import rmsprop as rmsprop
from trainfn.rules import sgd as sgd
from trainfn.schedules import Schedule as Schedule
from trainfn.schedules import constant as constant
from trainfn.schedules import cosine as cosine
from trainfn.schedules import exponential as exponential
from trainfn.schedules import linear as linear
from trainfn.schedules import polynomial as polynomial
from trainfn.schedules import schedule as schedule
from trainfn.schedules import sequence as sequence
from trainfn.schedules import step_decay as step_decay
from trainfn.schedules import warmup as warmup
from trainfn.schedules import warmup_cosine as warmup_cosine
from trainfn.trace import Array as Array
from trainfn.trace import Leaf as Leaf
from trainfn.trace import LeafPair as LeafPair
from trainfn.trace import LeafScalar as LeafScalar
from trainfn.trace import ModelPair as ModelPair
from trainfn.trace import ModelScalar as ModelScalar
from trainfn.trace import NoSuchMethod as NoSuchMethod
from trainfn.trace import TraceError as TraceError
from trainfn.wrappers.skip import maximize as maximize
from trainfn.wrappers.skip import skip_if_not_finite as skip_if_not_finite
from trainfn.wrappers.skip import unscale as unscale
