"""Update rules and links, one file for each idea of the literature."""

from trainfn.rules.adagrad import adagrad as adagrad
from trainfn.rules.adam import adam as adam
from trainfn.rules.adam import adamw as adamw
from trainfn.rules.clip import clip_by_global_norm as clip_by_global_norm
from trainfn.rules.clip import clip_by_value as clip_by_value
from trainfn.rules.decay import coupled_weight_decay as coupled_weight_decay
from trainfn.rules.decay import decoupled_weight_decay as decoupled_weight_decay
from trainfn.rules.lion import lion as lion
from trainfn.rules.radam import radam as radam
from trainfn.rules.rmsprop import rmsprop as rmsprop
from trainfn.rules.sgd import sgd as sgd
