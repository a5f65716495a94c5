"""The trainings behind docs/results.md, docs/seeds.md and docs/finetune.md."""
