"""nbval compares checked cells of committed notebooks with what `make figures` executed."""

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams

from workflow.refresh import is_passing
from workflow.results import code_cells
from workflow.runs import default_run


class ExecutedCell(IPyNbCell):
    """A cell that is compared with the same cell of the executed notebook."""

    def runtest(self):
        executed = self.parent.executed.get(self.cell_num)
        if executed is None or executed.source != self.cell.source:
            self.raise_cell_error("this cell has changed since it was executed: run make figures")
        lasting = [output for output in executed.outputs if not is_passing(output)]
        outputs = coalesce_streams(lasting)
        if self.options["check"] and not self.compare_outputs(outputs, self.cell.outputs):
            self.raise_cell_error(
                "other output than committed", "\n".join(self.comparison_traceback)
            )


class ExecutedNotebook(IPyNbFile):
    """A notebook whose cells tagged nbval-check-output are compared, as by nbval-lax."""

    def setup(self):
        path = default_run(self.path.stem) / "notebook.ipynb"
        if not path.is_file():
            pytest.fail(f"{self.path.name} was not executed yet: run make figures", pytrace=False)
        self.executed = dict(enumerate(code_cells(path)))
        self.skip_compare += ("stderr",)

    def teardown(self):
        """Nothing was started."""

    def collect(self):
        self.compare_outputs = False
        for cell in super().collect():
            yield ExecutedCell.from_parent(
                self,
                name=cell.name,
                cell_num=cell.cell_num,
                cell=cell.cell,
                options=cell.options,
            )


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".ipynb":
        return ExecutedNotebook.from_parent(parent, path=file_path)
    return None
