"""Takes mail for the tests: prints its port, then one JSON object for each mail that it took or refused.

`later@` is refused for now the first time, `never@` for good.
"""

import asyncio
import email
import email.policy
import json
import sys

from aiosmtpd.smtp import SMTP


class Sink:
    def __init__(self):
        self.seen = set()

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        to = envelope.rcpt_tos[0]
        local = to.split("@")[0]
        if local == "later" and to not in self.seen:
            answer = "451 try again"
        elif local == "never":
            answer = "550 no such address"
        else:
            answer = "250 OK"
        self.seen.add(to)
        mail = {
            "from": envelope.mail_from,
            "to": to,
            "subject": message["subject"],
            "message_id": message["message-id"],
            "text": message.get_content(),
            "answer": answer,
        }
        print(json.dumps(mail), flush=True)
        return answer


async def main():
    sink = Sink()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(sink, enable_SMTPUTF8=True), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
