# SPDX-License-Identifier: Apache-2.0
"""What deformable layers gain and cost in accuracy: studies that go on where they were stopped, and what they found."""
