"""Every setting of every stage: one frozen dataclass a stage, one line a setting.

A line gives a setting's name, type, bounds, help and default. Flags, TOML and JSON keys and the
documentation come from that line and from nowhere else; pydantic checks the values when an object
is made, and contradictions between settings are refused at the same moment. Nothing changes a
config afterwards: use `dataclasses.replace`. A command's settings are the union of the stages that
it runs, so setting names are unique over all of them.
"""

from bertsmith.config.corpus import (
    CasingConfig,
    CorpusConfig,
    ExamplesConfig,
    PrepareConfig,
    VocabConfig,
)
from bertsmith.config.encoder import (
    SIZES,
    BertConfig,
    bert_of_size,
)
from bertsmith.config.engine import EngineConfig
from bertsmith.config.filters import FilterConfig
from bertsmith.config.inference import InferenceConfig
from bertsmith.config.labelled import (
    PAPERS_FEATURES,
    ColumnsConfig,
    FeatureBased,
    FeatureTaggerConfig,
    TaskConfig,
)
from bertsmith.config.modern import (
    ModernBertConfig,
    modern_of_size,
)
from bertsmith.config.settings import (
    Help,
    Settings,
    read_settings_file,
    setting_names,
)
from bertsmith.config.training import (
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    RanksConfig,
    seconds_of,
    weights_of,
)
from bertsmith.config.watching import WatchConfig

EncoderConfig = BertConfig | ModernBertConfig  # the shape of an encoder of either kind

__all__ = [
    "BertConfig",
    "CasingConfig",
    "ColumnsConfig",
    "CorpusConfig",
    "EncoderConfig",
    "EngineConfig",
    "ExamplesConfig",
    "FeatureBased",
    "FeatureTaggerConfig",
    "FilterConfig",
    "FinetuneConfig",
    "Help",
    "InferenceConfig",
    "ModernBertConfig",
    "OptimizerConfig",
    "PAPERS_FEATURES",
    "PrepareConfig",
    "PretrainConfig",
    "RanksConfig",
    "SIZES",
    "Settings",
    "TaskConfig",
    "VocabConfig",
    "WatchConfig",
    "bert_of_size",
    "modern_of_size",
    "read_settings_file",
    "seconds_of",
    "setting_names",
    "weights_of",
]
