"""What a pipeline may say: pure, frozen, strict Pydantic models. They read nothing, compute nothing and know no Dagster."""
