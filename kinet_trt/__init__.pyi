from .core.detections import Detections as Detections
from .core.detections import Nucleus as Nucleus
from .core.errors import CountCancelledError as CountCancelledError
from .core.errors import EngineError as EngineError
from .core.errors import ImageError as ImageError
from .core.errors import KinetError as KinetError
from .core.frame import Frame as Frame
from .core.ki67 import Ki67 as Ki67
from .core.logs import log_to as log_to
from .core.notice import NOTICE as NOTICE
from .counting.run import CountRun as CountRun
from .counting.run import count_paths as count_paths
from .evaluation.statistics import IndexAgreement as IndexAgreement
from .evaluation.statistics import index_agreement as index_agreement
from .inference.counter import Counter as Counter
from .inference.counter import NucleusCounter as NucleusCounter
from .inference.counter import Threshold as Threshold
from .io.images import read_image as read_image
from .quality.dab import measure_dab as measure_dab
from .slides.count import count_slide as count_slide

__version__: str
