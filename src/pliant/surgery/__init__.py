# SPDX-License-Identifier: Apache-2.0
"""Model surgery: put deformable convolutions into a model one already has, and take them out again."""

from pliant.surgery.convert import convert as convert
from pliant.surgery.convert import revert as revert
from pliant.surgery.optim import param_groups as param_groups
from pliant.surgery.plan import Plan as Plan
from pliant.surgery.plan import Row as Row
from pliant.surgery.plan import Skipped as Skipped
from pliant.surgery.plan import plan as plan
from pliant.surgery.select import Where as Where
