import com.alibaba.fastjson.JSON;
import com.alibaba.fastjson.JSONObject;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * RocketMQ's mqadmin, and its Java clients, told what to do line by line: starting a JVM for each
 * command would take most of the time.
 *
 * A line is a JSON array of words; the answer is one line of JSON behind "@@ ".
 *
 *   ["mqadmin", "topicList", ...]      what the command printed
 *   ["consume", group, topic]          starts a push consumer
 *   ["consumed", group]                the bodies it has been given so far
 *   ["produce", group, topic, body, tag, key]   sends one message; the producer stays
 *   ["stop", group]                    shuts a consumer or producer down
 */
public class MqAdmin {
    private static final Map<String, DefaultMQPushConsumer> CONSUMERS = new TreeMap<>();
    private static final Map<String, DefaultMQProducer> PRODUCERS = new TreeMap<>();
    private static final Map<String, ConcurrentLinkedQueue<String>> BODIES = new ConcurrentHashMap<>();
    private static final PrintStream ANSWERS = System.out;
    private static String servers;

    public static void main(String[] args) throws Exception {
        servers = args[0];
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        answer("ready", "");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            List<String> words = JSON.parseArray(line, String.class);
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream out = new PrintStream(printed, true);
            System.setOut(out);
            System.setErr(out);
            Object told = "";
            try {
                told = act(words);
            } catch (Throwable error) {
                error.printStackTrace(out);
            }
            answer(told, printed.toString());
        }
        System.exit(0);
    }

    private static void answer(Object told, String printed) {
        JSONObject found = new JSONObject();
        found.put("told", told);
        found.put("printed", printed);
        ANSWERS.println("@@ " + found.toJSONString());
        ANSWERS.flush();
    }

    private static Object act(List<String> words) throws Exception {
        String name = words.size() > 1 ? words.get(1) : "";
        switch (words.get(0)) {
            case "mqadmin":
                MQAdminStartup.main0(words.subList(1, words.size()).toArray(new String[0]), null);
                return "";
            case "consume":
                consume(name, words.get(2));
                return "";
            case "consumed":
                return BODIES.get(name).toArray();
            case "produce":
                return produce(name, words);
            case "stop":
                if (CONSUMERS.containsKey(name)) {
                    CONSUMERS.remove(name).shutdown();
                }
                if (PRODUCERS.containsKey(name)) {
                    PRODUCERS.remove(name).shutdown();
                }
                return "";
            default:
                throw new IllegalArgumentException(words.toString());
        }
    }

    private static void consume(String group, String topic) throws Exception {
        ConcurrentLinkedQueue<String> bodies = new ConcurrentLinkedQueue<>();
        BODIES.put(group, bodies);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(servers);
        consumer.setInstanceName("consumer-" + group);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                bodies.add(new String(message.getBody()));
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        CONSUMERS.put(group, consumer);
    }

    private static Object produce(String group, List<String> words) throws Exception {
        DefaultMQProducer producer = PRODUCERS.get(group);
        if (producer == null) {
            producer = new DefaultMQProducer(group);
            producer.setNamesrvAddr(servers);
            producer.setInstanceName("producer-" + group);
            producer.start();
            PRODUCERS.put(group, producer);
        }
        Message message =
            new Message(words.get(2), words.get(4), words.get(5), words.get(3).getBytes());
        SendResult sent = producer.send(message);
        Map<String, Object> found = new TreeMap<>();
        found.put("status", sent.getSendStatus().name());
        found.put("unique_id", sent.getMsgId());
        found.put("offset_id", sent.getOffsetMsgId());
        found.put("queue", sent.getMessageQueue().getQueueId());
        found.put("broker", sent.getMessageQueue().getBrokerName());
        found.put("offset", sent.getQueueOffset());
        return found;
    }
}
