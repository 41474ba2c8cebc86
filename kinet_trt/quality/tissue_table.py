"""The score of tissue of `kinet_trt.quality.domain_check`, made by benchmarks/tissue.py: do not edit."""

BIAS = -6.292
# Usual value, spread, and the weights below and above it, of each number of `Features.tissue`.
NUMBERS = (
    (0.1731, 0.122, 0.0, 0.1896),  # magenta
    (0.1054, 0.0975, 0.0, 0.4203),  # green
    (0.3086, 0.1739, 0.0, 0.3923),  # grey
    (177.8, 10.99, 0.0, 0.2318),  # hue of brown
    (0.1377, 0.04801, 0.0, 0.6181),  # saturation of brown
    (0.1925, 0.121, 0.0, 0.526),  # colour of white
    (6.981, 1.288, 0.7774, 0.0),  # number of colours
    (0.6025, 0.2373, 0.5982, 0.0),  # pale
    (0.5151, 0.1092, 0.0, 0.4458),  # coherence
    (0.3255, 0.1255, 0.0, 0.421),  # anisotropy
    (0.67, 0.1359, 0.0, 0.165),  # between blocks
    (0.7864, 0.2846, 0.0, 0.4252),  # uneven blocks
    (-1.349, 1.127, 0.0, 0.4007),  # skewness
    (-1.094, 0.7598, 0.0, 0.662),  # dark spots
    (0.1489, 0.4595, 0.0, 0.0),  # yellow in dark spots
    (-1.841, 0.5917, 0.0, 0.2842),  # green against magenta
    (2.939, 0.295, 0.0, 0.7459),  # coarsest quarter
    (-1.677, 0.3052, 0.2502, 0.04135),  # 64 px
    (-1.799, 0.319, 0.01627, 0.0),  # 45 px
    (-2.338, 0.3955, 0.05063, 0.0),  # 32 px
    (-4.73, 0.9589, 0.0, 1.454),  # 5 px
)
