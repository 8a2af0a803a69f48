// Says on standard output whether the JavaScript library of Standard Webhooks takes a message that Sinter has sent.
// Standard input: {"secret": "whsec_…", "headers": {…}, "body": "…"}.
import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const { secret, headers, body } = JSON.parse(readFileSync(0, "utf8"));
try {
  const message = new Webhook(secret).verify(body, headers);
  console.log(JSON.stringify({ accepted: true, message }));
} catch (error) {
  if (!(error instanceof WebhookVerificationError)) throw error;
  console.log(JSON.stringify({ accepted: false, reason: error.message }));
}
