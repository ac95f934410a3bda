NAME = "look"
SCHEMA = {
    "type": "object",
    "required": ["at"],
    "additionalProperties": False,
    "properties": {
        "at": {"type": "string", "description": "What is looked at."},
        "most": {"type": "integer", "minimum": 1, "description": "How much of it."},
    },
}


def read(given, context):
    return len(given["at"])
