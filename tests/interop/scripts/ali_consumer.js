// Consume with npm's ali-ons, as told by a JSON object in argv, until stdin ends.
// Keys as in stock_consumer.py, and times: how often a message may fail.
'use strict';
const { Consumer } = require('ali-ons');

const told = JSON.parse(process.argv[2]);
const begun = Date.now();
const tell = (event, fields) =>
  console.log(JSON.stringify({ event, at: (Date.now() - begun) / 1000, ...fields }));
const quiet = { info() {}, debug() {}, warn() {}, error: text => tell('log', { why: String(text) }) };

const consumer = new Consumer({
  nameSrv: told.servers.split(';'),
  consumerGroup: told.group,
  isBroadcast: Boolean(told.broadcasting),
  ...('times' in told ? { maxReconsumeTimes: told.times } : {}),
  logger: quiet,
  httpclient: require('urllib'),
});
consumer.on('error', error => tell('error', { why: String(error) }));
consumer.subscribe(told.topic, told.expression || '*', async message => {
  const refused = message.reconsumeTimes < (told.fails || 0);
  tell(refused ? 'refused' : 'got', {
    body: message.body.toString(),
    topic: message.topic,
    tag: message.tags || '',
    keys: message.keys || '',
    queue: message.queueId,
    offset: message.queueOffset,
    times: message.reconsumeTimes,
    id: message.msgId,
  });
  if (refused) throw new Error('told to refuse');
  if (told.takes) await new Promise(done => setTimeout(done, told.takes * 1000));
});
consumer.ready(() => tell('started'));
process.stdin.resume();
process.stdin.on('end', async () => {
  await consumer.close();
  tell('ended');
  process.exit(0);
});
