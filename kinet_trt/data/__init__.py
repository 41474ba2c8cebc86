"""Pictures that come with the package: a real Ki67 field for the demo.

``ki67_field.png``: 596 x 596 px at 0.346 um/px, cut out of slide OS-2 of the OpenSlide test data (Hamamatsu scanner,
https://openslide.cs.cmu.edu/download/openslide-testdata/), which is free to use and distribute, with or without
modification. Its nuclei are not labelled, so the true counts are unknown.
"""
