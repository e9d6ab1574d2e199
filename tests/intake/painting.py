# SPDX-License-Identifier: Apache-2.0
"""The cheapest recipe that paints a given mesh, against true pictures of the world."""

PAINTING = """
prompt: a red mushroom with a white stem
stages:
  - name: paint
    scene: {kind: mesh, texture: 64, material: hash, levels: 4, finest: 32}
    terms:
      - {guidance: truth, system: photometric}
    steps: 3
    views: 2
    size: 16
export: {turntable: 2, size: 32, pictures: [sheet]}
keeping: {checkpoint: 2, log: 1}
"""
