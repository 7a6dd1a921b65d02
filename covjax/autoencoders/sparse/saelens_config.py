"""cfg.json of SAELens 3 to 6: which fields decide the function, and which are known to decide nothing.

In SAELens fields choose the function, so the rule is strict: a field that decides must have a value that is computed
here exactly; a field of the run that trained the autoencoder is ignored; any other one is refused by name, since it may
be one that decides in a version not known here.
"""

from pathlib import Path
from typing import Any

from covjax.errors import InputError, shown
from covjax.jsonfile import read_json

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
TYPES = ("float32", "float16", "bfloat16")
ALLOWED: dict[str, tuple[Any, ...]] = {
    "architecture": ARCHITECTURES,
    "activation_fn": ("relu", "topk"),
    "apply_b_dec_to_input": (True, False),
    "normalize_activations": ("none", None, False),
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
        "layer_norm": "every token is rescaled by its own numbers, which no weights can hold",
        "constant_norm_rescale": "every token is rescaled by its own norm, which no weights can hold",
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
    if config.get("rescale_acts_by_decoder_norm"):
        raise InputError(f"{path}: rescale_acts_by_decoder_norm is True; allowed with topk alone, got {architecture}")
