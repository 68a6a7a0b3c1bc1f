# SPDX-License-Identifier: Apache-2.0
"""The demonstration: trees on aerial photographs, one site to train on and another to test on (`run.run_demo`)."""
