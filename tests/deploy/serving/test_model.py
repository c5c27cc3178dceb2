"""Loading an export to serve it."""

import pytest

from deploy.manifest import ModelError
from deploy.serving import model


def test_an_export_that_is_replaced_while_it_loads_is_refused(export, make_generator, monkeypatch):
    """Its discriminator would be another export's."""
    verify = model.verify_runtime

    def replaced_meanwhile(*arguments):
        row = verify(*arguments)
        export.replace_generator(make_generator(export.weights * 2))
        return row

    monkeypatch.setattr(model, "verify_runtime", replaced_meanwhile)
    with pytest.raises(ModelError, match="was replaced by another export while it was loaded"):
        model.load(export.folder)
