// RocketMQ's Java client: `java Interop produce|consume|pull ORDERS`, one JSON line for each event.
// Orders are a JSON object with the keys of stock_producer.py and stock_consumer.py, and
// times: how often a message may fail; lite: pull with DefaultLitePullConsumer.
// All of them go on until stdin ends.

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.protocol.heartbeat.MessageModel;

public final class Interop {
    private static final int BATCH = 5;
    private static final long BEGUN = System.nanoTime();
    private static final CountDownLatch STOPPED = new CountDownLatch(1);
    private static JSONObject told;

    public static void main(String[] words) throws Exception {
        told = JSONObject.parseObject(words[1]);
        Thread reader = new Thread(Interop::readToTheEnd);
        reader.setDaemon(true);
        reader.start();
        switch (words[0]) {
            case "produce": produce(); break;
            case "consume": consume(); break;
            case "pull": if (told.getBooleanValue("lite")) litePull(); else pull(); break;
            default: throw new IllegalArgumentException(words[0]);
        }
        tell("ended", new JSONObject());
        System.exit(0);
    }

    private static void readToTheEnd() {
        try {
            while (System.in.read() >= 0) { }
        } catch (IOException error) {
            // as good as the end
        }
        STOPPED.countDown();
    }

    private static boolean isStopped() {
        return STOPPED.getCount() == 0;
    }

    private static synchronized void tell(String event, JSONObject fields) {
        fields.put("event", event);
        fields.put("at", since(BEGUN));
        fields.put("clock", System.nanoTime() / 1e9); // the same for all processes of a machine
        System.out.println(fields.toJSONString());
        System.out.flush();
    }

    private static double since(long nanos) {
        return (System.nanoTime() - nanos) / 1e9;
    }

    // -- producing -------------------------------------------------------------------------------

    private static void produce() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(told.getString("group"));
        producer.setNamesrvAddr(told.getString("servers"));
        if (told.containsKey("instance")) producer.setInstanceName(told.getString("instance"));
        producer.start();
        tell("started", new JSONObject());
        String how = told.containsKey("how") ? told.getString("how") : "sync";
        int size = how.equals("batch") ? BATCH : 1;
        JSONArray bodies = told.getJSONArray("bodies");
        String prefix = told.getString("endless");
        for (int at = 0; prefix != null ? !isStopped() : at < bodies.size(); at += size) {
            List<String> some = new ArrayList<>();
            for (int n = at; n < at + size && (prefix != null || n < bodies.size()); n++) {
                some.add(prefix != null ? prefix + n : bodies.getString(n));
            }
            while (!send(producer, how, some) && told.getBooleanValue("insist") && !isStopped()) {
                Thread.sleep(50);
            }
            if (told.containsKey("interval")) {
                Thread.sleep((long) (told.getDoubleValue("interval") * 1000));
            }
        }
        if (how.equals("oneway")) Thread.sleep(500); // shutdown does not wait for what went one way
        tell("through", new JSONObject());
        producer.shutdown();
    }

    private static Message message(String body) {
        String text = body + "x".repeat(told.getIntValue("padding"));
        Message made = new Message(told.getString("topic"), text.getBytes(StandardCharsets.UTF_8));
        if (told.containsKey("tag")) made.setTags(told.getString("tag"));
        if (told.containsKey("keys")) made.setKeys(told.getString("keys"));
        if (told.containsKey("delay_level")) made.setDelayTimeLevel(told.getIntValue("delay_level"));
        return made;
    }

    private static boolean send(DefaultMQProducer producer, String how, List<String> bodies)
            throws InterruptedException {
        long asked = System.nanoTime();
        Message message = message(bodies.get(0));
        try {
            SendResult result = null;
            switch (how) {
                case "sync": result = producer.send(message); break;
                case "oneway": producer.sendOneway(message); break;
                case "async": result = awaited(producer, message); break;
                case "ordered":
                    result = producer.send(message,
                        (queues, ignored, key) -> queues.get((Integer) key % queues.size()),
                        told.getIntValue("key"));
                    break;
                case "batch":
                    List<Message> messages = new ArrayList<>();
                    for (String body : bodies) messages.add(message(body));
                    result = producer.send(messages);
                    break;
                default: throw new IllegalArgumentException(how);
            }
            if (result != null && result.getSendStatus() != SendStatus.SEND_OK) {
                throw new IllegalStateException(result.getSendStatus().toString());
            }
            JSONObject fields = new JSONObject();
            fields.put("bodies", bodies);
            fields.put("seconds", since(asked));
            if (result != null) {
                fields.put("offset", result.getQueueOffset());
                fields.put("queue", result.getMessageQueue().getQueueId());
                fields.put("broker", result.getMessageQueue().getBrokerName());
                fields.put("id", result.getMsgId());
            }
            tell("sent", fields);
            return true;
        } catch (InterruptedException error) {
            throw error;
        } catch (Exception error) {
            JSONObject fields = new JSONObject();
            fields.put("bodies", bodies);
            fields.put("seconds", since(asked));
            fields.put("why", error.toString());
            tell("failed", fields);
            return false;
        }
    }

    private static SendResult awaited(DefaultMQProducer producer, Message message) throws Exception {
        CountDownLatch done = new CountDownLatch(1);
        SendResult[] result = new SendResult[1];
        Throwable[] failure = new Throwable[1];
        producer.send(message, new SendCallback() {
            @Override public void onSuccess(SendResult value) {
                result[0] = value;
                done.countDown();
            }

            @Override public void onException(Throwable error) {
                failure[0] = error;
                done.countDown();
            }
        });
        done.await();
        if (failure[0] != null) throw new Exception(failure[0]);
        return result[0];
    }

    // -- consuming -------------------------------------------------------------------------------

    private static void consume() throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(told.getString("group"));
        consumer.setNamesrvAddr(told.getString("servers"));
        String instance = told.getString("instance");
        if (instance != null && !instance.isEmpty()) consumer.setInstanceName(instance);
        if (told.getBooleanValue("broadcasting")) consumer.setMessageModel(MessageModel.BROADCASTING);
        if (told.containsKey("times")) consumer.setMaxReconsumeTimes(told.getIntValue("times"));
        String expression = told.containsKey("expression") ? told.getString("expression") : "*";
        consumer.subscribe(told.getString("topic"), expression);
        if (told.getBooleanValue("ordered")) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
                take(messages) ? ConsumeOrderlyStatus.SUCCESS
                    : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) ->
                take(messages) ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                    : ConsumeConcurrentlyStatus.RECONSUME_LATER);
        }
        consumer.start();
        tell("started", new JSONObject());
        STOPPED.await();
        consumer.shutdown();
    }

    private static boolean take(List<MessageExt> messages) {
        boolean taken = true;
        for (MessageExt message : messages) {
            boolean refused = message.getReconsumeTimes() < told.getIntValue("fails");
            tell(refused ? "refused" : "got", fields(message));
            taken &= !refused;
        }
        return taken;
    }

    private static JSONObject fields(MessageExt message) {
        JSONObject fields = new JSONObject();
        fields.put("body", new String(message.getBody(), StandardCharsets.UTF_8));
        fields.put("topic", message.getTopic());
        fields.put("tag", message.getTags() == null ? "" : message.getTags());
        fields.put("keys", message.getKeys() == null ? "" : message.getKeys());
        fields.put("queue", message.getQueueId());
        fields.put("offset", message.getQueueOffset());
        fields.put("times", message.getReconsumeTimes());
        fields.put("id", message.getMsgId());
        return fields;
    }

    private static void pull() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(told.getString("group"));
        consumer.setNamesrvAddr(told.getString("servers"));
        consumer.start();
        tell("started", new JSONObject());
        Set<MessageQueue> queues = new HashSet<>();
        while (!isStopped()) {
            try {
                if (queues.isEmpty()) {
                    queues.addAll(consumer.fetchSubscribeMessageQueues(told.getString("topic")));
                }
                for (MessageQueue queue : queues) {
                    long from = Math.max(0, consumer.fetchConsumeOffset(queue, false));
                    PullResult result = consumer.pull(queue, "*", from, 32);
                    if (result.getPullStatus() != PullStatus.FOUND) continue;
                    for (MessageExt message : result.getMsgFoundList()) tell("got", fields(message));
                    consumer.updateConsumeOffset(queue, result.getNextBeginOffset());
                    consumer.getDefaultMQPullConsumerImpl().getOffsetStore().updateConsumeOffsetToBroker(
                        queue, result.getNextBeginOffset(), false);
                }
                Thread.sleep(20);
            } catch (MQClientException error) {
                failed(error);
            } catch (InterruptedException error) {
                throw error;
            } catch (Exception error) {
                failed(error);
            }
        }
        consumer.shutdown();
    }

    private static void failed(Exception error) throws InterruptedException {
        JSONObject fields = new JSONObject();
        fields.put("why", error.toString());
        tell("error", fields);
        Thread.sleep(100);
    }

    private static void litePull() throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(told.getString("group"));
        consumer.setNamesrvAddr(told.getString("servers"));
        consumer.subscribe(told.getString("topic"), "*");
        consumer.start();
        tell("started", new JSONObject());
        while (!isStopped()) {
            for (MessageExt message : consumer.poll(200)) tell("got", fields(message));
            consumer.commitSync();
        }
        consumer.shutdown();
    }
}
