import org.apache.hadoop.security.UserGroupInformation;
import com.sun.security.auth.module.UnixSystem;

/** Prints who Java, its Unix login module and Hadoop take this process for, or why they cannot tell. */
public class Names {
    interface Ask {
        Object ask() throws Exception;
    }

    static void tell(String what, Ask question) {
        String answer;
        try {
            answer = String.valueOf(question.ask());
        } catch (Exception error) {
            answer = error.getClass().getSimpleName() + ": " + String.valueOf(error.getMessage()).split("\n")[0];
        }
        System.out.println(what + "\t" + answer);
    }

    public static void main(String[] arguments) {
        tell("Java user.name", () -> System.getProperty("user.name"));
        tell("Java UnixSystem", () -> new UnixSystem().getUsername());
        tell("Hadoop UserGroupInformation", () -> UserGroupInformation.getCurrentUser().getShortUserName());
    }
}
