"""Training by masked data modelling, from a manifest to a checkpoint and an evaluation.

    result = train("corpus/manifest.json", recipe.train, seed=0, out_dir="runs/first")
    result.evaluation["codes"].below_unigram_share

Read `loop`, then `step` and `losses`.
"""

from imglish.trainer.console import watch
from imglish.trainer.evaluate import Evaluation, TargetScore, evaluate
from imglish.trainer.loop import train
from imglish.trainer.run import RunResult

__all__ = ["Evaluation", "RunResult", "TargetScore", "evaluate", "train", "watch"]
