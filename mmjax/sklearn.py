"""The projection of arXiv 2502.02048 as a scikit-learn transformer: embeddings in, better ones out.

Needs the extra `sklearn`. JAX is imported on the first fit.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "mmjax.sklearn needs scikit-learn: python -m pip install 'mmjax[sklearn]'"
    ) from error

if TYPE_CHECKING:
    from mmjax.specs.projection import ProjectionSpec
    from mmjax.tasks.projection.fit import Modalities

# What a number may be, and how a sentence says it. Beyond these, float32 makes 0 or infinity of it.
_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    # Below, the losses cut it off.
    "temperature": (lambda x: 0.01 <= x <= 1e6, "a finite number of at least 0.01"),
    "learning_rate": (lambda x: 1e-30 <= x <= 1e30, "a number above 0"),
    "weight_decay": (lambda x: 0 <= x <= 1e6, "at least 0"),
    "dropout": (lambda x: 0 <= x < 1, "a rate in [0, 1)"),
    "validation_fraction": (lambda x: 0 < x < 1, "one in (0, 1)"),
}
_LARGEST = 10**9
_Parts = list[Float[np.ndarray, "n _"]]
_Present = list[Bool[np.ndarray, " n"]]


class ContrastiveProjection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Projects frozen embeddings so that what shares a label lies together.

    `X` is one array [n, d]; or several modalities of the same n examples: a list or dict of arrays
    (a modality may be None), or one array with `widths`. An example lacks a modality where that is
    NaN throughout: it takes no part in that projector's loss, and its projection is 0 (`single`:
    the modality counts as its training mean).

    Parameters:
      loss: "pairwise_bce" (the paper's), "supcon", or "infonce" (across modalities).
      mode: "per_modality" trains a projector on each and puts outputs side by side, "single" one on
        all features.
      out_dim: width of each projector's output.
      hidden: width of the hidden layer; None takes the paper's min(d / 2, 16).
      normalize: whether outputs are unit vectors; None: not for "pairwise_bce", for the others yes.
      temperature: divides the logits; at least 0.01.
      widths: how wide each modality is in one array [n, sum(widths)].
      standardize: learn a shift and scale of the features first.
      dropout: on the input features while training.
      epochs: passes over the data.
      batch_size: examples compared with each other in a step.
      learning_rate: of Adam.
      weight_decay: of matrices.
      early_stopping: hold out `validation_fraction` and stop after `patience` epochs without a
        lower loss on it, keeping the best. False trains on everything.
      validation_fraction: share of the examples that early stopping holds out.
      patience: see `early_stopping`.
      random_state: initial values, order, dropout, held-out examples.

    Attributes:
      params_: the fitted projectors, {modality: {layer: {"kernel", "bias"}}}, numpy f32.
      classes_: labels seen.
      widths_: of each modality.
      modalities_: names of a dict's modalities, else None.
      loss_curve_: mean training loss of every epoch.
      validation_curve_: loss on the held-out examples, with `early_stopping`.
      n_iter_: epochs run.

    Source: arXiv 2502.02048 (Margaritis, Petridis, Bertsimas, 2025).
    """

    def __init__(
        self,
        loss="pairwise_bce",
        *,
        mode="per_modality",
        out_dim=128,
        hidden=None,
        normalize=None,
        temperature=0.1,
        widths=None,
        standardize=False,
        dropout=0.0,
        epochs=10,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        patience=5,
        random_state=None,
    ) -> None:
        """Keeps the settings as they are; `fit` checks them, types too, as is usual there."""
        self.loss = loss
        self.mode = mode
        self.out_dim = out_dim
        self.hidden = hidden
        self.normalize = normalize
        self.temperature = temperature
        self.widths = widths
        self.standardize = standardize
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Labels are needed; outputs are f32; NaN stands for a modality that is not there."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.allow_nan = self.widths is not None
        return tags

    def fit(self, X: Any, y: Any = None) -> "ContrastiveProjection":
        """Trains the projectors.

        Args:
          X: see the class.
          y: one label an example, of any type that classifiers take.

        Returns:
          Itself.

        Raises:
          ValueError: data or settings that cannot be trained on.
        """
        self._check_settings()
        parts, present, y = self._read(X, y, fitting=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("y has 1 class; a projection is learnt from at least 2 classes")
        lacking = [n for n, kept in enumerate(present) if kept.sum() < 2]
        if lacking:
            raise ValueError(f"fewer than 2 examples have the modalities {lacking}")
        self.fill_ = [x[kept].mean(axis=0) for x, kept in zip(parts, present, strict=True)]
        data = self._as_projected(parts, present)
        if all((x[kept] == x[kept][:1]).all() for x, kept in zip(*data, strict=True)):
            raise ValueError("every feature of X is constant: there is nothing to project")
        if self.loss == "infonce" and len(data.features) < 2:
            raise ValueError("loss='infonce' compares modalities: give two, mode='per_modality'")
        from mmjax.tasks.projection import fit

        rng = check_random_state(self.random_state)
        held = self._held_out(labels, rng) if self.early_stopping else None
        how = fit.FitSpec(
            int(self.epochs),
            int(self.batch_size),
            float(self.learning_rate),
            float(self.weight_decay),
            int(self.patience),
        )
        fitted = fit.fit(self._spec(), how, data, labels.astype(np.int32), rng, held)
        self.params_ = fitted.params
        self.loss_curve_, self.validation_curve_ = fitted.losses, fitted.validation
        self.n_iter_ = len(fitted.losses)
        self._n_features_out = len(data.features) * self.out_dim
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n e"]:
        """Projects.

        Args:
          X: see the class; of the same modalities as `fit` saw.

        Returns:
          f32, the modalities' projections side by side.

        Raises:
          ValueError: data that does not fit what was fitted.
          NotFittedError: there was no `fit` before.
        """
        check_is_fitted(self)
        parts, present, _ = self._read(X, None, fitting=False)
        from mmjax.tasks.projection import fit

        data = self._as_projected(parts, present)
        return fit.project(self._spec(), self.params_, data)

    def _held_out(self, labels: Int[np.ndarray, " n"], rng: Any) -> Int[np.ndarray, " h"]:
        """Examples for early stopping, of every class alike where there are enough."""
        number, classes = len(labels), len(self.classes_)
        size = min(max(2, round(self.validation_fraction * number)), number - 2)
        if size < 2:
            raise ValueError(
                f"early_stopping needs at least 4 examples, X has {number} (n_samples)"
            )
        even = np.bincount(labels).min() > 1 and classes <= min(size, number - size)
        held = train_test_split(
            np.arange(number),
            test_size=size,
            stratify=labels if even else None,
            random_state=rng.randint(2**31 - 1),
        )[1]
        return np.asarray(held)

    def _as_projected(self, parts: _Parts, present: _Present) -> "Modalities":
        """As projectors read it: what is missing is 0, or the training mean for a single one."""
        from mmjax.tasks.projection.fit import Modalities

        single = self.mode == "single"
        fill = self.fill_ if single else [np.zeros_like(f) for f in self.fill_]
        kept = [np.where(k[:, None], x, f) for x, k, f in zip(parts, present, fill, strict=True)]
        if not single:
            return Modalities(kept, present)
        return Modalities([np.concatenate(kept, axis=1)], [np.ones(len(kept[0]), bool)])

    def _check_settings(self) -> None:
        choices = {
            "loss": ("pairwise_bce", "supcon", "infonce"),
            "mode": ("per_modality", "single"),
        }
        for name, allowed in choices.items():
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        least = {"out_dim": 1, "epochs": 1, "batch_size": 2, "patience": 1}
        for name, bound in (least | ({} if self.hidden is None else {"hidden": 1})).items():
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or value < bound:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {bound}")
            if value > _LARGEST:
                raise ValueError(f"{name} is {value!r}; expected an integer of at most {_LARGEST}")
        for name, (good, expected) in _RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not number or not good(float(value)):
                raise ValueError(f"{name} is {value!r}; expected {expected}")
        if self.normalize not in (None, True, False):
            raise ValueError(f"normalize is {self.normalize!r}; expected True, False or None")
        if self.widths is not None:
            several = isinstance(self.widths, (list, tuple, np.ndarray)) and len(self.widths)
            if not several or not all(
                isinstance(width, (int, np.integer)) and width >= 1 for width in self.widths
            ):
                raise ValueError(
                    f"widths is {self.widths!r}; expected integers of at least 1, one a modality"
                )

    def _spec(self) -> "ProjectionSpec":
        from mmjax.specs.projection import ProjectionSpec

        return ProjectionSpec(
            self.loss,  # pyright: ignore[reportArgumentType]
            self.mode,  # pyright: ignore[reportArgumentType]
            int(self.hidden or 0),
            int(self.out_dim),
            self.normalize,
            float(self.temperature),
            float(self.dropout),
            bool(self.standardize),
        )

    def _read(self, X: Any, y: Any, fitting: bool) -> tuple[_Parts, _Present, Any]:
        """Checks the data in any of its forms; `y` comes back checked while fitting."""
        if not _is_several(X):
            several = self.widths if fitting else self.widths_ if len(self.widths_) > 1 else None
            options: dict[str, Any] = dict(
                dtype=np.float32,
                ensure_all_finite=True if several is None else "allow-nan",
                ensure_min_samples=2 if fitting else 1,
            )
            array: Any
            if fitting:
                array, y = validate_data(self, X, y, **options)
            else:
                array = validate_data(self, X, reset=False, **options)
            widths = (array.shape[1],) if several is None else tuple(several)
            if sum(widths) != array.shape[1]:
                raise ValueError(
                    f"X has {array.shape[1]} columns; widths {widths} make another sum"
                )
            parts = np.split(array, np.cumsum(widths)[:-1], axis=1)
            names = None if fitting else self.modalities_
        else:
            if fitting and y is None:
                raise ValueError(
                    "This ContrastiveProjection estimator requires y to be passed, but the target "
                    "y is None"
                )
            names = tuple(X) if isinstance(X, Mapping) else None
            parts = self._parts(X, fitting)
            if fitting:
                y = column_or_1d(y, warn=True)
                check_consistent_length(parts[0], y)
                self.n_features_in_ = sum(part.shape[1] for part in parts)
        if fitting:
            self.widths_ = tuple(part.shape[1] for part in parts)
            self.modalities_ = names
        return parts, _present(parts), y

    def _parts(self, X: Any, fitting: bool) -> list[Float[np.ndarray, "n d"]]:
        """The arrays of a list or dict; NaN throughout where a modality is not there."""
        if fitting:
            modalities = dict(X) if isinstance(X, Mapping) else dict(enumerate(X))
            missing = [name for name, part in modalities.items() if part is None]
            if missing:
                raise ValueError(f"X has no data of the modalities {missing} to learn from")
            widths: dict[Any, int | None] = dict.fromkeys(modalities)
        else:
            names = self.modalities_ or range(len(self.widths_))
            widths = dict(zip(names, self.widths_, strict=True))
            modalities = dict(X) if isinstance(X, Mapping) else dict(zip(names, X, strict=False))
            if set(modalities) - set(widths) or (
                not isinstance(X, Mapping) and len(X) != len(widths)
            ):
                raise ValueError(
                    f"X has the modalities {list(modalities)}; fitted on {list(widths)} (give None "
                    "for one that is not there)"
                )
        options: dict[str, Any] = dict(
            dtype=np.float32,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if fitting else 1,
        )
        arrays: dict[Any, Any] = {
            name: check_array(part, input_name=f"modality {name}", **options)
            for name, part in modalities.items()
            if part is not None
        }
        if not arrays:
            raise ValueError("X has no modality with data")
        check_consistent_length(*arrays.values())
        count = len(next(iter(arrays.values())))
        parts = []
        for name, width in widths.items():
            part = arrays.get(name)
            if part is None:
                part = np.full((count, width or 0), np.nan, np.float32)
            elif width is not None and part.shape[1] != width:
                raise ValueError(
                    f"modality {name} has {part.shape[1]} features; it had {width} when fitted"
                )
            parts.append(part)
        return parts


def _present(parts: _Parts) -> _Present:
    """Finds what is missing and refuses what is broken."""
    present: _Present = [~np.asarray(np.isnan(part).all(axis=1)) for part in parts]
    for number, (part, kept) in enumerate(zip(parts, present, strict=True)):
        broken = np.flatnonzero(np.isnan(part).any(axis=1) & kept)
        if len(broken):
            raise ValueError(
                f"Input X contains NaN: modality {number}, row {broken[0]} in some columns; "
                "a modality that is not there is NaN in all of them"
            )
    empty = np.flatnonzero(~np.any(present, axis=0))
    if len(empty):
        raise ValueError(f"Input X contains NaN alone in row {empty[0]}: it has no modality")
    return present


def _is_several(X: Any) -> bool:
    """Whether data comes as one array a modality, not as rows of numbers."""
    if hasattr(X, "shape"):  # one of scipy's sparse matrices is a dict
        return False
    if isinstance(X, Mapping):
        return True
    if not isinstance(X, (list, tuple)) or not X:
        return False
    return all(part is None or getattr(part, "ndim", 0) == 2 for part in X)
