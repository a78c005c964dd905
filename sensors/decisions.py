"""What follows decisions: a retrain after a retraining decision, a release after an approval, and the reconciler."""

import dagster as dg

from assets.declaration import Pipeline
from assets.endpoint.reconciliation import reconcile
from assets.release.decisions import awaiting_release
from assets.retraining.decide import latest_decision
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.ledger import Ledger
from resources.reports import Reports
from sensors import jobs
from sensors.due import DAY
from sensors.requests import AS_OF, CAUSE, run_request
