"""Learning-rate schedules (and schedules of any other hyperparameter) as pure functions of the step."""

from trainfn.schedules.basic import constant as constant
from trainfn.schedules.basic import cosine as cosine
from trainfn.schedules.basic import exponential as exponential
from trainfn.schedules.basic import linear as linear
from trainfn.schedules.basic import polynomial as polynomial
from trainfn.schedules.basic import sequence as sequence
from trainfn.schedules.basic import step_decay as step_decay
from trainfn.schedules.basic import warmup as warmup
from trainfn.schedules.basic import warmup_cosine as warmup_cosine
from trainfn.schedules.schedule import Schedule as Schedule
from trainfn.schedules.schedule import schedule as schedule
