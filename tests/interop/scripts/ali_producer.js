// Send with npm's ali-ons, as told by a JSON object in argv; one JSON line for each event.
// Keys as in telling.py, and delay_ms; how is sync or ordered.
'use strict';
const { Producer, Message } = require('ali-ons');

const told = JSON.parse(process.argv[2]);
const begun = Date.now();
const tell = (event, fields) =>
  console.log(JSON.stringify({ event, at: (Date.now() - begun) / 1000, ...fields }));
const quiet = { info() {}, debug() {}, warn() {}, error: text => tell('log', { why: String(text) }) };
const pause = seconds => new Promise(done => setTimeout(done, seconds * 1000));
let stopped = false;
process.stdin.resume();
process.stdin.on('end', () => { stopped = true; });

const sent = async (producer, body) => {
  const message = new Message(told.topic, told.tag || '', body + 'x'.repeat(told.padding || 0));
  if (told.keys) message.keys = told.keys.split(' ');
  if (told.how === 'ordered') message.shardingKey = String(told.key || 0);
  if (told.delay_ms) message.setStartDeliverTime(Date.now() + told.delay_ms);
  const asked = Date.now();
  try {
    const result = await producer.send(message);
    tell('sent', {
      bodies: [ body ],
      seconds: (Date.now() - asked) / 1000,
      offset: result.queueOffset,
      id: result.msgId,
    });
    return true;
  } catch (error) {
    tell('failed', { bodies: [ body ], seconds: (Date.now() - asked) / 1000, why: String(error) });
    return false;
  }
};

(async () => {
  const producer = new Producer({
    nameSrv: told.servers.split(';'),
    producerGroup: told.group,
    logger: quiet,
    httpclient: require('urllib'),
  });
  producer.on('error', error => tell('error', { why: String(error) }));
  await producer.ready();
  tell('started');
  for (let at = 0; told.endless ? !stopped : at < told.bodies.length; at++) {
    const body = told.endless ? told.endless + at : told.bodies[at];
    while (!(await sent(producer, body)) && told.insist && !stopped) await pause(0.05);
    if (told.interval) await pause(told.interval);
  }
  tell('through'); // it cannot close while a broker that it knows is gone
  await producer.close();
  tell('ended');
  process.exit(0);
})().catch(error => {
  tell('broken', { why: String(error.stack) });
  process.exit(1);
});
