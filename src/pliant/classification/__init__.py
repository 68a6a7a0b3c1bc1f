# SPDX-License-Identifier: Apache-2.0
"""Classification networks with deformable layers, in training form."""
