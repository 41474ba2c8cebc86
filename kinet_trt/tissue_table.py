"""The score of tissue of `kinet_trt.unlike`, made by benchmarks/tissue.py: do not edit."""

BIAS = -6.066
# Usual value, spread, and the weights below and above it, of each number of `Signs.tissue`.
NUMBERS = (
    (0.1749, 0.1239, 0.0, 0.2619),  # magenta
    (0.1073, 0.09918, 0.0, 0.4478),  # green
    (0.3098, 0.1762, 0.0, 0.3898),  # grey
    (177.6, 11.11, 0.0, 0.283),  # hue of brown
    (0.1383, 0.04908, 0.0, 0.6529),  # saturation of brown
    (0.1921, 0.1203, 0.0, 0.5462),  # colour of white
    (6.909, 1.306, 0.5828, 0.0),  # number of colours
    (0.5191, 0.1103, 0.0, 0.4311),  # coherence
    (0.327, 0.1273, 0.0, 0.5057),  # anisotropy
    (0.6707, 0.1364, 0.0, 0.08034),  # between blocks
    (0.7906, 0.2843, 0.0, 0.5237),  # uneven blocks
    (-1.396, 1.15, 0.0, 0.7984),  # skewness
    (-1.122, 0.776, 0.0, 0.7872),  # dark spots
    (0.1523, 0.4609, 0.0, 0.0),  # yellow in dark spots
    (-1.803, 0.5961, 0.0, 0.1755),  # green against magenta
    (2.945, 0.2955, 0.0, 0.7398),  # coarsest quarter
    (-1.679, 0.3218, 0.239, 0.0),  # 64 px
    (-1.813, 0.3298, 0.0, 0.0),  # 45 px
    (-2.359, 0.4067, 0.05943, 0.0),  # 32 px
    (-4.702, 0.9771, 0.0, 1.4),  # 5 px
)
