"""Sparse autoencoders in folders of SAELens, read and written.

In SAELens fields choose the function, so the rule is strict: a field that decides must have a value that is computed
here exactly; a field of the run that trained the autoencoder is ignored; any other one is refused by name, since it may
be one that decides in a version not known here.

W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc (d_sae,), b_dec (d_in,), and `threshold` (d_sae,) for jumprelu, in
z = act((x − b_dec) W_enc + b_enc), x̂ = z W_dec + b_dec. The input scale is folded into the tensors: nothing is left to
apply to the activations. What is read is written again bit by bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covjax.autoencoders.sparse.dictionary_learning import read_dictionary
from covjax.autoencoders.sparse.gated import Gated
from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.published import Published, read_gemma_scope, read_sparsify, take
from covjax.errors import InputError, shown
from covjax.modelfiles import StoredTensor, read_json, read_safetensors

# The last two are those of a training that is not finished: SAELens' own finished ones are jumprelu.
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
BATCH = ("batchtopk", "matryoshka_batchtopk")
RESCALE = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
TYPES = ("float32", "float16", "bfloat16")
ALLOWED: dict[str, tuple[Any, ...]] = {
    "architecture": ARCHITECTURES,
    "activation_fn": ("relu", "topk"),
    "apply_b_dec_to_input": (True, False),
    "normalize_activations": ("none", None, False, *RESCALE),
    "reshape_activations": ("none", None, "hook_z"),  # hook_z: the heads' widths side by side, which tokens here are
    "rescale_acts_by_decoder_norm": (True, False, None),
    "finetuning_scaling_factor": (True, False, None),
    # What SAELens computes in; here it is float32, from the stored values.
    "dtype": (*TYPES, *(f"torch.{name}" for name in TYPES), None),
}
REASONS: dict[str, dict[Any, str]] = {
    "normalize_activations": {
        "expected_average_only_in": "the mean norm it divides by is not in the folder; fold it in with SAELens "
        "(fold_activation_norm_scaling_factor) and save again",
        True: "the mean norm it divides by is not in the folder; fold it in with SAELens "
        "(fold_activation_norm_scaling_factor) and save again",
        "covariance_whitening": "the mean and matrix it whitens by are not in the folder; fold them in with SAELens "
        "(fold_activation_whitening) and save again",
    },
    "architecture": {
        **dict.fromkeys(
            ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
            "it does not give back the tokens that it reads",
        ),
        "matching_pursuit": "its latents are chosen one after the other",
        "temporal": "its latents depend on the tokens before",
        "abstopk": "its latents may be negative",
    },
    "activation_fn": {"tanh-relu": "there is no module with that function"},
}
# Fields of the runs of SAELens 3 to 6 that trained an autoencoder, and of what it was trained on.
BOOKKEEPING = frozenset((
    "metadata", "meta", "device", "act_store_device", "seed", "verbose", "resume", "streaming", "prepend_bos",
    "context_size", "seqpos_slice", "exclude_special_tokens", "autocast", "autocast_lm", "compile_llm", "compile_sae",
    "llm_compilation_mode", "sae_compilation_mode", "expansion_factor", "from_pretrained_path", "n_batches_in_buffer",
    "training_tokens", "total_training_tokens", "total_training_steps", "finetuning_tokens", "finetuning_method",
    "store_batch_size", "store_batch_size_prompts", "train_batch_size", "train_batch_size_tokens", "tokens_per_buffer",
    "use_cached_activations", "cached_activations_path", "is_dataset_tokenized", "b_dec_init_method",
    "decoder_orthogonal_init", "decoder_heuristic_init", "decoder_heuristic_init_norm", "decoder_init_norm",
    "init_encoder_as_decoder_transpose", "normalize_sae_decoder", "noise_scale", "mse_loss_normalization", "lp_norm",
    "l1_coefficient", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps", "aux_loss_coefficient",
    "scale_sparsity_penalty_by_decoder_norm", "use_ghost_grads", "adam_beta1", "adam_beta2", "lr", "lr_end",
    "lr_scheduler_name", "lr_warm_up_steps", "lr_decay_steps", "n_restart_cycles", "feature_sampling_window",
    "feature_sampling_method", "feature_reinit_scale", "resample_batches", "dead_feature_window",
    "dead_feature_threshold", "dead_feature_estimation_method", "jumprelu_init_threshold", "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "pre_act_loss_coefficient",
    "target_l0", "topk_threshold_lr", "use_sparse_activations", "use_matryoshka_aux_loss", "matryoshka_widths",
    "n_eval_batches", "eval_batch_size_prompts", "eval_every_n_wandb_logs", "run_name", "n_checkpoints",
    "checkpoint_path", "neuronpedia_id", "model_kwargs", "model_name", "model_class_name",
    "model_from_pretrained_kwargs", "sae_lens_version", "sae_lens_training_version", "hook_name", "hook_layer",
    "hook_head_index", "hook_eval", "hook_point", "hook_point_layer", "hook_point_head_index", "hook_point_eval",
    "dataset_path", "dataset_trust_remote_code", "wandb_project", "wandb_entity", "wandb_id", "wandb_log_frequency",
    "log_to_wandb", "log_activations_store_to_wandb", "log_optimizer_state_to_wandb",
))  # fmt: skip
SIZES = ("d_in", "d_sae", "k", "activation_fn_kwargs")


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields that decide, under today's names, all of them set and of the right type.

    Raises InputError that names the field, its value and what is allowed or why not.
    """
    config = dict(read_json(path))
    if "activation_fn_str" in config:
        older = config.pop("activation_fn_str")
        if config.setdefault("activation_fn", older) != older:
            raise InputError(
                f"{path}: activation_fn is {shown(config['activation_fn'])}, but activation_fn_str {shown(older)}"
            )
    if "activation_fn" in config and config["activation_fn"] is None:
        del config["activation_fn"]
    config.setdefault("architecture", "standard")
    _check(path, "architecture", config["architecture"])  # before the fields that only others have
    for name, value in config.items():
        if name in ALLOWED:
            _check(path, name, value)
        elif name not in BOOKKEEPING and name not in SIZES:
            raise InputError(
                f"{path}: the field {shown(name, 60)} ({shown(value, 60)}) is not known; it may change the activations "
                "(delete it if it does not)"
            )
    _choose_activation(path, config)
    for name in ("d_in", "d_sae") + (("k",) if config["activation_fn"] == "topk" else ()):
        if type(config.get(name)) is not int or config[name] < 1:
            raise InputError(f"{path}: {name} is {shown(config.get(name))}, expected a whole number from 1")
    defaults = {"apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": False, "finetuning_scaling_factor": False}
    return {**defaults, **config}


def _check(path: Path, name: str, value: Any) -> None:
    # By type as well: 1 equals True, and "1" is true.
    if not any(type(value) is type(one) and value == one for one in ALLOWED[name]):
        known = REASONS.get(name, {})
        reason = known.get(value, "") if isinstance(value, str | bool) else ""
        values = ", ".join(map(repr, ALLOWED[name]))
        raise InputError(f"{path}: {name} is {shown(value)}; allowed: {values}{'; ' * bool(reason)}{reason}")


def _choose_activation(path: Path, config: dict[str, Any]) -> None:
    """Set `activation_fn`, and `k` where it is topk, from the several fields that may say them."""
    architecture, given = config["architecture"], config.get("activation_fn")
    activation = given or ("topk" if architecture == "topk" else "relu")
    if (architecture == "topk") != (activation == "topk") and architecture != "standard":
        raise InputError(f"{path}: activation_fn is {shown(given)} in the architecture {architecture}")
    config["activation_fn"] = activation
    arguments = config.get("activation_fn_kwargs") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: activation_fn_kwargs is {shown(arguments)}, expected an object")
    if unknown := sorted(set(arguments) - {"k"}):
        raise InputError(f"{path}: activation_fn_kwargs: {shown(unknown[0])} is not known; allowed: 'k'")
    if activation == "topk":
        if "k" in arguments and config.setdefault("k", arguments["k"]) != arguments["k"]:
            raise InputError(f"{path}: k is {shown(config['k'])}, but activation_fn_kwargs has {shown(arguments['k'])}")
        return
    if architecture == "standard" and config.get("k") is not None:
        raise InputError(f"{path}: k is {shown(config['k'])}, but activation_fn is relu")
    if config.get("rescale_acts_by_decoder_norm") and architecture not in BATCH:
        raise InputError(f"{path}: rescale_acts_by_decoder_norm is True; allowed with topk alone, got {architecture}")


WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"


def save_saelens(folder: str | Path, module: SparseAutoencoder, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a folder of SAELens 6.

    TopK becomes "topk", ReLU "standard", Gated "gated"; JumpReLU, BatchTopK and Matryoshka become "jumprelu".

    `metadata` (model_name, hook_name, …) goes into cfg.json under that name.
    Raises InputError where the folder cannot be written or there is no such architecture in that layout.
    """
    if np.ndim(module.scale[...]):
        raise InputError(f"module: {type(module).__name__}, of several layers, has no counterpart in SAELens")
    scale = np.asarray(module.scale[...])
    tensors = {
        "W_enc": np.asarray(module.encoder[...]).T * scale,
        "W_dec": np.asarray(module.decoder[...]) / scale,
        "b_enc": np.asarray(module.encoder_bias[...]),
        "b_dec": np.asarray(module.decoder_bias[...]) / scale,
    }
    config: dict[str, Any] = {"d_in": module.features, "d_sae": module.latents, "dtype": "float32", "device": "cpu"}
    theirs = {own: name for name, own in RESCALE.items()}.get(module.rescale, "none")
    config |= {"apply_b_dec_to_input": True, "normalize_activations": theirs, "reshape_activations": "none"}
    if isinstance(module, TopK):
        config |= {"architecture": "topk", "k": module.k, "rescale_acts_by_decoder_norm": False}
    elif isinstance(module, ReLU):
        config["architecture"] = "standard"
    elif isinstance(module, Gated):
        config["architecture"] = "gated"
        tensors["b_mag"] = tensors.pop("b_enc")
        tensors |= {"b_gate": np.asarray(module.gate_bias[...]), "r_mag": np.asarray(module.log_magnitude[...])}
    elif isinstance(module, (JumpReLU, BatchTopK)):
        config["architecture"] = "jumprelu"
        tensors["threshold"] = np.broadcast_to(np.asarray(module.threshold[...]), (module.latents,))
    else:
        raise InputError(f"module: {type(module).__name__} has no counterpart in SAELens")
    config["metadata"] = dict(metadata or {})
    from safetensors import SafetensorError  # not where autoencoders alone are wanted
    from safetensors.numpy import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None


LAYOUTS: dict[str, tuple[str, ...]] = {
    "sae_weights.safetensors": (CONFIG,),
    "sae.safetensors": (CONFIG,),
    "ae.pt": ("config.json",),
    "params.npz": (),
}  # the file of the tensors, and what else belongs to it


def load_saelens(folder: str | Path) -> SparseAutoencoder:
    """Read a published sparse autoencoder: a folder of SAELens, dictionary_learning, sparsify or Gemma Scope.

    SAELens 3 to 6 (cfg.json, sae_weights.safetensors): the architectures standard, topk, jumprelu and gated, and the
    checkpoints of batchtopk and matryoshka_batchtopk, which become JumpReLU as there; tokens rescaled by layer norm or
    to a constant norm. dictionary_learning (ae.pt, config.json): all classes but crosscoders. sparsify (cfg.json,
    sae.safetensors): topk. Gemma Scope: params.npz. float32, float16 or bfloat16. Scales, decoder norms and the bias of
    an input that is not centred are folded into the tensors, in float64: the latents are those of the library that
    wrote the folder, up to rounding. The decoder's rows keep their norms in further training.

    Raises InputError, naming the tensor and its shape or the field and its value, for a missing, extra, misshapen or
    non-finite tensor, for settings that do something else, and for a field that is not known.
    """
    folder = Path(folder)
    readers = (_read_saelens, read_sparsify, read_dictionary, read_gemma_scope)
    for file, read in zip(LAYOUTS, readers, strict=True):
        if (folder / file).is_file():
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused at the end
                return read(folder).module(folder)
    raise InputError(f"{folder}: no autoencoder: no such file as {', '.join(LAYOUTS)}")


def _read_saelens(folder: Path) -> Published:
    fields = read_fields(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS)
    features, latents, architecture = fields["d_in"], fields["d_sae"], fields["architecture"]
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (features, latents), "W_dec": (latents, features)}
    shapes |= {"b_dec": (features,)}
    if architecture == "gated":
        shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (latents,))
    else:
        shapes["b_enc"] = (latents,)
    if architecture == "jumprelu":
        shapes["threshold"] = (latents,)
    threshold = _batch_threshold(tensors, folder) if architecture in BATCH else None
    # Written for a time with every autoencoder, as ones; in use where the field says so.
    factor = next((name for name in ("scaling_factor", "finetuning_scaling_factor") if name in tensors), None)
    if factor or fields["finetuning_scaling_factor"]:
        shapes[factor or "finetuning_scaling_factor"] = (latents,)
    t = take(tensors, shapes, folder, f"architecture {architecture}")
    made = Published(t["W_enc"], t["W_dec"], t["b_mag" if architecture == "gated" else "b_enc"], t["b_dec"])
    made.threshold, made.k = t.get("threshold"), fields["k"] if fields["activation_fn"] == "topk" else None
    made.rescale = RESCALE.get(fields.get("normalize_activations") or "none", "none")
    if threshold is not None:
        made.threshold = np.full(latents, threshold)
    if architecture == "gated":
        made.gates = t["r_mag"], t["b_gate"]
    if not fields["apply_b_dec_to_input"]:
        made.move_bias()
    if fields["rescale_acts_by_decoder_norm"]:
        made.scale_latents()
    if factor and (t[factor] != 1).any():
        if not fields["finetuning_scaling_factor"]:
            raise InputError(f"{folder}: tensor {factor} is not all ones, but finetuning_scaling_factor is off")
        made.decoder = np.asarray(made.decoder, np.float64) * t[factor][:, None]
    return made


def _batch_threshold(tensors: dict[str, StoredTensor], folder: Path) -> float:
    stored = tensors.pop("topk_threshold", None)
    if stored is None or stored.shape != () or stored.dtype.name not in (*TYPES, "float64"):
        was = "missing" if stored is None else f"{stored.dtype}{list(stored.shape)}"
        raise InputError(f"{folder}: topk_threshold is {was}, expected one number: what is active without a batch")
    value = float(stored.read())
    if not np.isfinite(value):
        raise InputError(f"{folder}: topk_threshold is {value}, expected a finite number")
    return value
